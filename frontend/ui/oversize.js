(maxBytes, sentence) => {
  // Files over the limit get no further than here: Gradio would upload them first, and has a
  // sentence of its own for those that even it refuses. What comes with them goes on.
  const line = document.querySelector("#oversize p");
  const refuse = (event) => {
    const {target, type} = event;
    if (type === "change" && !target.matches(":is(#message, #pictures) input[type=file]")) return;
    const carrier = type === "change" ? target : (event.dataTransfer ?? event.clipboardData);
    const files = [...(carrier?.files ?? [])];
    if (!files.length) return;
    line.textContent = "";
    const large = files.find((file) => file.size > maxBytes);
    if (!large) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const kept = new DataTransfer();
    for (const file of files) if (file.size <= maxBytes) kept.items.add(file);
    if (type === "change") target.files = kept.files;
    if (kept.files.length) {
      const carried = {bubbles: true, cancelable: true, dataTransfer: kept, clipboardData: kept};
      target.dispatchEvent(new event.constructor(type, carried));
    }
    line.textContent = `${large.name}: ${sentence.replace("SIZE", large.size.toLocaleString("en"))}`;
  };
  for (const type of ["change", "drop", "paste"]) document.addEventListener(type, refuse, true);
  return [];
}
