() => {
  // What Gradio's box lacks: names for screen readers, kinds of files for the chooser (a phone
  // offers its camera for them, and gives its own formats as JPEG), and files dropped beside it,
  // for which the browser would leave the page.
  const box = document.querySelector("#message");
  const complete = () => {
    box.querySelector("textarea")?.setAttribute("aria-label", say("Message"));
    box.querySelector(".thumbnails")?.setAttribute("role", "list");
    for (const chooser of box.querySelectorAll("input[type=file]"))
      chooser.accept = "image/jpeg,image/png,image/webp,image/gif";
  };
  new MutationObserver(complete).observe(box, {childList: true, subtree: true});
  complete();

  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event) || box.contains(event.target)) return;
    event.preventDefault();
    const {dataTransfer} = event;
    box.querySelector("[role=group]").dispatchEvent(new DragEvent("drop", {dataTransfer}));
  });
  return [];
}
