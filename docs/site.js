// Tables that scroll can be reached and scrolled by keyboard.
document$.subscribe(() => {
  for (const [place, wrap] of document.querySelectorAll(".md-typeset__scrollwrap").entries()) {
    wrap.tabIndex = 0;
    wrap.setAttribute("role", "region");
    wrap.setAttribute("aria-label", `Table ${place + 1}`);
  }
});
