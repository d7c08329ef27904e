// Runs in the page: what can be seen of the editors, as text.
'use strict';
(() => {
  const escape = /\\(?:([0-9a-f]{1,6}) ?|(.))/gi;

  /** Text of a pseudo-element, where decorations put theirs. */
  function contentOf(element, which) {
    const content = getComputedStyle(element, which).content;
    if (!content || content[0] !== '"') return '';
    return content
      .slice(1, -1)
      .replace(escape, (_, hex, plain) => (hex ? String.fromCodePoint(parseInt(hex, 16)) : plain))
      .replaceAll('\u00a0', ' ');
  }

  /** Text of a row; what hangs below it goes to `hanging`. */
  function text(node, hanging) {
    if (node.nodeType === Node.TEXT_NODE) return node.data;
    if (node.nodeType !== Node.ELEMENT_NODE) return '';
    const { display, fontSize } = getComputedStyle(node);
    if (display === 'none') return '';
    const inside = fontSize === '0px' ? [] : [...node.childNodes];
    const parts = inside.map((child) => text(child, hanging));
    for (const which of ['::before', '::after']) {
      const content = contentOf(node, which);
      const style = getComputedStyle(node, which);
      if (content === '' || style.fontSize === '0px') continue;
      if (style.position === 'absolute') hanging.push([parseFloat(style.top), content]);
      else if (which === '::before') parts.unshift(content);
      else parts.push(content);
    }
    return parts.join('');
  }

  /** Every row of every editor, from top to bottom: lines, view zones and lenses. */
  function rows() {
    const found = [];
    for (const editor of document.querySelectorAll('.editor-instance .monaco-editor')) {
      const rows = editor.querySelectorAll(
        '.view-lines > .view-line, .view-zones > *, .codelens-decoration',
      );
      for (const row of rows) {
        const { top, height } = row.getBoundingClientRect();
        if (!height) continue;
        const hanging = [];
        found.push([top, text(row, hanging)], ...hanging.map(([by, what]) => [top + by, what]));
      }
    }
    const clean = found.map(([top, what]) => [top, what.replaceAll('\u00a0', ' ').trimEnd()]);
    return clean.sort((a, b) => a[0] - b[0]);
  }

  const lines = () => rows().map((row) => row[1]);

  const messages = () =>
    [...document.querySelectorAll('.notification-list-item-message')].map((node) =>
      node.innerText.trim(),
    );

  /** "Loading weights… 40%" */
  const isProgress = (text) => /…( \d+%)?$/.test(text);

  const see = {
    rows,
    lines,
    screens: [],
    heightOf: (text) => rows().find((row) => row[1].includes(text))?.[0] ?? -1,
    painted: () =>
      [...document.querySelectorAll('.view-line span')].some((node) =>
        ['::before', '::after'].some((which) =>
          getComputedStyle(node, which).backgroundImage.includes('gradient'),
        ),
      ),
    styleOf: (text) => {
      for (const node of document.querySelectorAll('.view-line span')) {
        for (const which of ['::before', '::after']) {
          if (contentOf(node, which) === text) return getComputedStyle(node, which).backgroundImage;
        }
      }
      return '';
    },
    themeColour: (variable) => {
      const probe = document.querySelector('.monaco-workbench').appendChild(document.createElement('i'));
      probe.style.color = `var(--vscode-${variable})`;
      const color = getComputedStyle(probe).color;
      probe.remove();
      return color;
    },
    watched: 0,
    watch: (text) => {
      see.watched = 0;
      const begin = () => {
        const pressed = performance.now();
        const look = () => {
          if (lines().some((line) => line.includes(text))) requestAnimationFrame(look);
          else see.watched = performance.now() - pressed;
        };
        look();
      };
      addEventListener('keydown', begin, { capture: true, once: true });
    },
    focused: () => !!document.activeElement?.closest('.monaco-editor'),
    status: () => {
      const items = [...document.querySelectorAll('.statusbar-item')];
      return items.filter((i) => /blockdiff/i.test(i.id + i.ariaLabel)).map((i) => i.innerText).join(' ');
    },
    ghost: () =>
      [...document.querySelectorAll('[class*="ghost-text"]')]
        .map((node) => text(node, []))
        .join('')
        .replaceAll('\u00a0', ' '),
    notices: () => messages().filter((text) => !isProgress(text)),
    progress: () => messages().filter(isProgress).join('\n'),
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
