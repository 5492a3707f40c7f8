"use strict";
// Asks for the page again whenever the server tells of a change, and puts in what differs. Without this the page is the same, standing still.
(() => {
  const live = document.getElementById("live");
  const news = document.getElementById("news");
  document.documentElement.classList.add("js");
  let asking = false;
  let again = false;
  let stream = null;
  let shown = new Date();

  const clock = (date) => date.toISOString().slice(11, 19) + " UTC";
  const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const state = (ok) => {
    live.className = ok ? "on" : "off";
    say(live, ok ? "live" : "no connection since " + clock(shown) + ", trying again");
  };

  // Makes `old` like `fresh`, touching nothing that is equal: what is open stays open, what has the focus keeps it.
  const morph = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeName !== fresh.nodeName || old.id !== fresh.id) { old.replaceWith(fresh.cloneNode(true)); return; }
    if (old.nodeType !== Node.ELEMENT_NODE) { old.nodeValue = fresh.nodeValue; return; }
    if (old.nodeName === "INPUT") return;
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(old.nodeName === "DETAILS" && name === "open")) old.removeAttribute(name);
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    // What has an id is found again wherever it stands; the rest is taken in its order.
    let at = old.firstChild;
    for (const node of [...fresh.childNodes]) {
      const known = node.id && [...old.children].find((one) => one.id === node.id);
      if (known && known !== at) old.insertBefore(known, at);
      if (!known && (!at || at.id)) { old.insertBefore(node.cloneNode(true), at); continue; }
      const same = known || at;
      if (same === at) at = at.nextSibling;
      morph(same, node);
    }
    while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
  };

  const refresh = async () => {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const answer = await fetch(location.pathname + location.search, { cache: "no-store" });
      if (!answer.ok && answer.status !== 404) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const focused = document.activeElement && document.activeElement.id;
      morph(document.getElementById("main"), page.getElementById("main"));
      if (focused && document.activeElement === document.body) {
        const same = document.getElementById(focused);
        if (same) same.focus({ preventScroll: true });
      }
      shown = new Date();
      state(true);
    } catch {
      state(false);
    }
    asking = false;
    if (again) { again = false; refresh(); }
  };

  const listen = () => {
    stream = new EventSource("/api/v1/events");
    stream.onopen = refresh;
    stream.onerror = () => state(false);
    for (const kind of ["mesh", "sources", "everything"]) stream.addEventListener(kind, refresh);
    stream.addEventListener("renewal", (event) => {
      const { mesh, phase } = JSON.parse(event.data);
      if (phase) say(news, mesh + ": " + phase.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase());
      refresh();
    });
  };

  // Words such as "2 days" grow old without any event, and a server that takes no more listeners is asked from time to time.
  setInterval(() => {
    if (document.hidden) return;
    const deaf = stream.readyState === EventSource.CLOSED;
    if (deaf || Date.now() - shown > 60000) refresh();
    if (deaf) { stream.close(); listen(); }
  }, 10000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  addEventListener("pagehide", () => stream.close());
  addEventListener("pageshow", (event) => { if (event.persisted) listen(); });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copy);
    const range = document.createRange();
    range.selectNodeContents(text);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    let copied = false;
    try {
      await navigator.clipboard.writeText(text.textContent);
      copied = true;
    } catch {
      // There is no clipboard API without TLS.
      copied = document.execCommand("copy");
    }
    say(news, copied ? "Copied." : "Selected; copy it by hand.");
    button.classList.toggle("copied", copied);
  });

  listen();
})();
