// Draws every chart from the specification beside it, in the colours that the reader's system prefers.
(() => {
  const themes = JSON.parse(document.getElementById("themes").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const draw = (figure) => {
    const theme = dark.matches ? "dark" : "light";
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const options = { config: themes[theme], renderer: "svg", actions: false, ast: true, tooltip: { theme } };
    return vegaEmbed(figure.querySelector(".live"), spec, options);
  };
  const drawAll = () =>
    Promise.all(
      [...document.querySelectorAll("figure.chart")].map((figure) => {
        figure.classList.add("drawn"); // the still picture disappears, and the live one gets its width
        return draw(figure).catch(() => figure.classList.remove("drawn"));
      }),
    ).then(() => document.documentElement.classList.add("ready"));
  dark.addEventListener("change", drawAll);
  drawAll();
})();
