() => {
  // A still of the camera, given to the page's chooser of files as if it had been chosen. The
  // camera is on only while the dialog is open.
  const dialog = document.createElement("dialog");
  dialog.id = "camera-view";
  dialog.setAttribute("aria-label", say("Camera"));
  dialog.innerHTML = `
    <video autoplay playsinline muted aria-label="${say("What the camera sees")}"></video>
    <p class="line error" role="alert"></p>
    <div>
      <button type="button" disabled>${say("Take picture")}</button>
      <button type="button">${say("Cancel")}</button>
    </div>`;
  const [take, cancel] = dialog.querySelectorAll("button");
  const video = dialog.querySelector("video");
  let tracks = [];
  const turnOff = () => tracks.forEach((track) => track.stop());

  const tell = (reason) => {
    take.disabled = true;
    video.remove();
    dialog.querySelector("[role=alert]").textContent = `${reason} ${say("Or upload a picture instead.")}`;
  };
  const WHY = {
    NotAllowedError: say(
      "The camera is refused: allow it for this page in the browser's settings."
    ),
    NotFoundError: say("No camera was found: connect one and try again."),
    NotReadableError: say("The camera cannot be opened: close other programs that use it."),
  };
  const show = (stream) => {
    tracks = stream.getTracks();
    if (!dialog.open) return turnOff();
    tracks[0].onended = () => tell(say("The camera has gone: connect it and try again."));
    video.srcObject = stream;
  };
  video.onplaying = () => {
    take.disabled = false;
    take.focus();
  };
  take.onclick = () => {
    const still = document.createElement("canvas");
    still.width = video.videoWidth;
    still.height = video.videoHeight;
    still.getContext("2d").drawImage(video, 0, 0);
    still.toBlob((bytes) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "camera.jpg", {type: "image/jpeg"}));
      const chooser = document.querySelector(":is(#message, #pictures) input[type=file]");
      chooser.files = transfer.files;
      chooser.dispatchEvent(new Event("change", {bubbles: true}));
    }, "image/jpeg", 0.92);
    dialog.close();
  };
  cancel.onclick = () => dialog.close();
  dialog.onclose = () => {
    turnOff();
    dialog.remove();
  };
  document.querySelector(".gradio-container").append(dialog);
  dialog.showModal();
  navigator.mediaDevices
    .getUserMedia({video: {facingMode: "environment", width: {ideal: 1280}, height: {ideal: 720}}})
    .then(show)
    .catch((error) => tell(WHY[error.name] ?? `${say("The camera cannot be used.")} (${error.name})`));
  return [];
}
