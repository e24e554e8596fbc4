// The sections inside a section of the class "tabs" become tabs. Without a script they stand one below the other.
for (const group of document.querySelectorAll("section.tabs")) {
  const panels = [...group.children].filter((element) => element.matches("section"));
  const bar = document.createElement("div");
  bar.className = "tab-bar";
  bar.setAttribute("role", "tablist");
  bar.setAttribute("aria-label", group.querySelector("h2").firstChild.textContent);

  const buttons = panels.map((panel) => {
    const button = document.createElement("button");
    button.type = "button";
    button.id = `tab-${panel.id}`;
    button.textContent = panel.querySelector("h3").firstChild.textContent;
    button.setAttribute("role", "tab");
    button.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", button.id);
    return button;
  });

  const select = (chosen) => {
    panels.forEach((panel, k) => {
      const on = panel === chosen;
      buttons[k].setAttribute("aria-selected", String(on));
      buttons[k].tabIndex = on ? 0 : -1;
      if (on) panel.removeAttribute("hidden");
      else panel.setAttribute("hidden", "until-found"); // the browser's search still finds the words
    });
  };

  const follow = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const panel = target && panels.find((element) => element.contains(target));
    if (panel) {
      select(panel);
      target.scrollIntoView();
    }
  };

  buttons.forEach((button, k) => {
    button.addEventListener("click", () => {
      select(panels[k]);
      history.replaceState(null, "", `#${panels[k].id}`);
    });
    button.addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!way) return;
      const next = buttons[(k + way + buttons.length) % buttons.length];
      next.focus();
      next.click();
    });
    panels[k].addEventListener("beforematch", () => select(panels[k]));
  });

  bar.append(...buttons);
  panels[0].before(bar);
  select(panels[0]);
  follow();
  addEventListener("hashchange", follow);
}
