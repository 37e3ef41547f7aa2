(bookmark) => {
  // Keep the address at the chat that the tab shows: a reload comes back to it.
  const address = new URL(window.location.href);
  const chat = bookmark.split(":")[0];
  if (chat) address.searchParams.set("chat", chat);
  else address.searchParams.delete("chat");
  window.history.replaceState(window.history.state, "", address);
  return [];
}
