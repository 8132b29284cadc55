// Elements are made by name and filled with text: nothing that came from an entry is ever read as markup.

const element = (name, attributes, ...children) => filled(document.createElement(name), attributes, children);
const drawn = (name, attributes, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const byId = (id) => document.getElementById(id);

// Text of unknown direction and length, kept from turning round what stands beside it.
const named = (text) => element("bdi", {}, text);

// A link to another view of this page, with an address of its own; a plain click does not load it anew. What changes
// may depend on what is shown when it is followed.
const link = (change, attributes, ...children) => {
  const wanted = typeof change === "function" ? change : () => change;
  return element(
    "a",
    {
      href: state.address(wanted()),
      ...attributes,
      onclick: (event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
        event.preventDefault();
        event.stopPropagation();
        state.go(wanted());
      },
    },
    ...children,
  );
};

// What opening a network changes: where one waits to be compared, this is the second of the two.
const opening = (id) =>
  state.now.beside && !state.now.entry ? { entry: state.now.beside, beside: id } : { entry: id, strategy: "" };

const button = (label, onclick, attributes) => element("button", { type: "button", onclick, ...attributes }, label);
