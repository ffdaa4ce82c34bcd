// What of a page somebody could not read, name or reach: asked of the page itself.

/** Runs in the page: every complaint in words. */
export function complaints() {
  const found = new Set();
  const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  /** Any colour of CSS as red, green, blue and opacity of 0 to 1. */
  const read = (css) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = css;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].map((value) => value / 255);
  };
  const over = (top, below, opacity) => [0, 1, 2].map((at) => top[at] * opacity + below[at] * (1 - opacity));
  const what = (element) => `<${element.localName}${element.className && typeof element.className === 'string' ? `.${element.className.split(' ')[0]}` : ''}> “${(element.textContent ?? '').trim().slice(0, 30)}”`;
  const seen = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && element.closest('.hidden') === null;

  // Text on what is really behind it.
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
    const element = node.parentElement;
    if (node.data.trim() === '' || element === null || !seen(element) || element.closest('button:disabled, option, noscript, script, style') !== null) continue;
    const layers = [];
    let opacity = 1;
    for (let at = element; at !== null; at = at.parentElement) {
      const style = getComputedStyle(at);
      layers.push(read(style.backgroundColor));
      opacity *= Number(style.opacity);
    }
    const ground = layers.reverse().reduce((below, layer) => over(layer, below, layer[3]), [1, 1, 1]);
    const style = getComputedStyle(element);
    const ink = read(style.color);
    const [light, dark] = [luminance(over(ink, ground, ink[3] * opacity)), luminance(ground)].sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (large ? 3 : 4.5)) found.add(`contrast ${contrast.toFixed(2)}: ${what(element)}`);
  }

  // Whatever can be used has a name, and room to be met.
  for (const control of document.querySelectorAll('button, a[href], input, select, textarea, [role="application"], [role="img"], [role="option"]')) {
    if (!seen(control) || control.closest('[aria-hidden=true]') !== null) continue;
    const named = control.getAttribute('aria-label')?.trim() || control.getAttribute('title')?.trim() || control.labels?.[0]?.textContent?.trim() || (control.localName === 'input' ? '' : control.textContent?.trim()) || control.querySelector('img')?.alt;
    if (!named) found.add(`no name: ${control.outerHTML.slice(0, 80)}`);
  }
  for (const image of document.querySelectorAll('img:not([alt])')) found.add(`no words for ${image.outerHTML.slice(0, 80)}`);
  for (const table of document.querySelectorAll('table')) if (!table.getAttribute('aria-label') && table.caption === null) found.add(`a table without a name: ${what(table)}`);
  for (const scrolled of document.querySelectorAll('main *')) {
    const style = getComputedStyle(scrolled);
    const more = scrolled.scrollHeight > scrolled.clientHeight + 1 && /auto|scroll/.test(style.overflowY);
    if (more && scrolled.tabIndex < 0 && scrolled.querySelector('button, a[href], input, select, textarea, [tabindex="0"]') === null) found.add(`scrolls, but not by keys: ${what(scrolled)}`);
  }
  const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.add(`two of id ${id}`);
  for (const attribute of ['aria-controls', 'aria-describedby', 'aria-labelledby', 'aria-activedescendant']) {
    for (const element of document.querySelectorAll(`[${attribute}]`)) if (document.getElementById(element.getAttribute(attribute)) === null) found.add(`${attribute} of nothing: ${what(element)}`);
  }
  if (document.querySelectorAll('h1').length !== 1) found.add(`${document.querySelectorAll('h1').length} first headings`);
  if (document.querySelectorAll('main').length !== 1) found.add('no single main part');
  if (document.documentElement.lang === '') found.add('no language');
  return [...found];
}
