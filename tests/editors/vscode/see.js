// Runs in the page: what can be seen of the editors, as text.
'use strict';
(() => {
  const escape = /\\(?:([0-9a-f]{1,6}) ?|(.))/gi;

  /** Text of a pseudo-element, where decorations put theirs. */
  function before_or_after(element, which) {
    const content = getComputedStyle(element, which).content;
    if (!content || content[0] !== '"') return '';
    return content
      .slice(1, -1)
      .replace(escape, (_, hex, plain) => (hex ? String.fromCodePoint(parseInt(hex, 16)) : plain));
  }

  function text(node) {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    if (node.nodeType !== Node.ELEMENT_NODE) return '';
    const inside = [...node.childNodes].map(text).join('');
    return before_or_after(node, '::before') + inside + before_or_after(node, '::after');
  }

  /** Every row of every editor, from top to bottom: lines, view zones and lenses. */
  function lines() {
    const rows = [];
    for (const editor of document.querySelectorAll('.editor-instance .monaco-editor')) {
      const found = editor.querySelectorAll(
        '.view-lines > .view-line, .view-zones > *, .codelens-decoration',
      );
      for (const row of found) {
        const { top, height } = row.getBoundingClientRect();
        if (height) rows.push([top, text(row).replaceAll('\u00a0', ' ')]);
      }
    }
    return rows.sort((a, b) => a[0] - b[0]).map((row) => row[1].trimEnd());
  }

  const see = {
    text,
    lines,
    screens: [],
    focused: () => !!document.activeElement?.closest('.monaco-editor'),
    status: () => {
      const items = [...document.querySelectorAll('.statusbar-item')];
      return items.filter((i) => /blockdiff/i.test(i.id + i.ariaLabel)).map((i) => i.innerText).join(' ');
    },
    notices: () =>
      [...document.querySelectorAll('.notification-list-item-message')].map((n) => n.innerText),
    record: () => {
      see.screens = [];
      const watch = () => {
        const screen = lines().join('\n');
        if (screen !== see.screens.at(-1)) see.screens.push(screen);
        requestAnimationFrame(watch);
      };
      watch();
    },
  };
  globalThis.see = see;
})();
