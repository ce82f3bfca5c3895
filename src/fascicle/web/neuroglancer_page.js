// Runs before the Neuroglancer bundle. The bundle in the Python package expects a Python process beside it for
// credentials, shared state and events; a page that keeps its state in the URL needs none of them, so they are answered
// here. The bundle itself is served as it is.
(() => {
  "use strict";
  const own = /\/neuroglancer\/(events|state|credentials|action|volume_response)\//;
  const answers = { credentials: { generation: 1, credentials: { token: "" } }, state: { g: "1" } };
  const fetchOutside = window.fetch.bind(window);
  window.fetch = (input, options) => {
    const url = new URL(typeof input === "string" || input instanceof URL ? input : input.url, window.location.href);
    const found = url.origin === window.location.origin ? own.exec(url.pathname) : null;
    if (found === null) return fetchOutside(input, options);
    const body = JSON.stringify(answers[found[1]] ?? {});
    return Promise.resolve(new Response(body, { status: 200, headers: { "Content-Type": "application/json" } }));
  };
  const EventSourceOutside = window.EventSource;
  window.EventSource = class extends EventTarget {
    constructor(url, options) {
      super();
      if (!own.test(new URL(url, window.location.href).pathname)) return new EventSourceOutside(url, options);
      setTimeout(() => this.onopen?.(), 0);
    }
    close() {}
  };
})();
