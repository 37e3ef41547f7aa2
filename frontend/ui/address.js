(bookmark) => {
  // Keep the address at the chat or battle that the tab shows: a reload comes back to it.
  const address = new URL(window.location.href);
  const name = address.pathname.endsWith("/battle") ? "battle" : "chat";
  const id = bookmark.split(":")[0];
  if (id) address.searchParams.set(name, id);
  else address.searchParams.delete(name);
  window.history.replaceState(window.history.state, "", address);
  return [];
}
