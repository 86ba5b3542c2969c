/** Elements made in code: text is always text, never markup. */

export type Child = Node | string | null | undefined | false;

type Attributes = Record<string, string | boolean | undefined>;

/** An element with attributes (`true` is the bare attribute, `false` and `undefined` leave it out) and children. */
export function element<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  for (const child of children) if (child) made.append(child);
  return made;
}

/** The element of the page with this id; the page and this code are built together, so its absence is our fault. */
export function byId<Kind extends HTMLElement>(id: string, kind: new () => Kind): Kind {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} #${id}`);
  return found;
}

let counted = 0;

/** An id that is used once in this page. */
export function uniqueId(stem: string): string {
  counted += 1;
  return `${stem}-${counted}`;
}
