// SPDX-License-Identifier: Apache-2.0
"use strict";

const PERIOD_MS = 500; // between looks: as fast as a person on a ladder reads
const GRIP = 40; // thousandths of the picture: how near a finger takes hold of a corner
const MAX_CORNERS = 16;
const by = (id) => document.getElementById(id);
const state = { looking: false, zone: null, drawn: null, held: null, seen: null, tab: null };

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function post(path, body = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST", credentials: "same-origin", headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, "The console does not answer: its time may be over. Open it again.");
  }
  const told = await answer.json().catch(() => ({ error: "The console is busy: try again." }));
  if (!answer.ok) throw new Refused(answer.status, told.error || "The console refuses this.");
  if (typeof told.seconds === "number") left(told.seconds);
  return told;
}

function left(seconds) {
  by("left").textContent = seconds > 90 ? `open for ${Math.round(seconds / 60)} minutes` : `open for ${seconds} seconds`;
}

function fail(error) {
  by("error").textContent = error.message;
  by("error").hidden = false;
  if (error.status === 401) leave();
}

function doing(action) {
  return async (event) => {
    if (event) event.preventDefault();
    by("error").hidden = true;
    try { await action(event); } catch (error) { fail(error); }
  };
}

function item(list, text, kind) {
  const line = document.createElement("li");
  line.textContent = text;
  if (kind) line.className = kind;
  list.append(line);
  return line;
}

// Entering and leaving

function enter(told) {
  by("door").hidden = true;
  by("tabs").hidden = by("logout").hidden = false;
  for (const name of ["enrol", "outputs"]) {
    document.querySelector(`[data-tab=${name}]`).hidden = told.scope !== "install";
  }
  show("picture");
  if (!state.looking) { state.looking = true; look(); }
}

function leave() {
  state.looking = false;
  by("door").hidden = false;
  by("tabs").hidden = by("logout").hidden = true;
  for (const name of ["picture", "checks", "enrol", "outputs"]) by(name).hidden = true;
}

function show(tab) {
  state.tab = tab;
  for (const button of document.querySelectorAll("[data-tab]")) {
    button.setAttribute("aria-current", String(button.dataset.tab === tab));
    by(button.dataset.tab).hidden = button.dataset.tab !== tab;
  }
  if (tab === "enrol") { // the person sees how they stand
    by("step-captures").append(by("frame"));
    readNotice();
  } else {
    by("picture").prepend(by("frame"));
  }
}

by("login").addEventListener("submit", doing(async () => {
  const told = await post("/login", { code: by("code").value });
  by("code").value = "";
  enter(told);
}));
by("logout").addEventListener("click", doing(async () => { await post("/logout"); leave(); }));
for (const button of document.querySelectorAll("[data-tab]")) {
  button.addEventListener("click", () => { by("error").hidden = true; show(button.dataset.tab); });
}

// The picture

async function look() {
  while (state.looking) {
    const began = Date.now();
    try {
      if (document.visibilityState === "visible") seen(await post("/do/look"));
    } catch (error) {
      fail(error);
    }
    await new Promise((done) => setTimeout(done, Math.max(PERIOD_MS - (Date.now() - began), 50)));
  }
}

function seen(told) {
  state.seen = told;
  by("waiting").hidden = !told.waiting;
  by("waiting").textContent = told.waiting || "";
  if (!told.waiting) {
    if (by("error").textContent.startsWith("the unit does not answer")) by("error").hidden = true;
    if (state.drawn === null) state.zone = told.zone;
    by("zone-tools").hidden = told.zone === null;
    const { width, height, frames_per_second: rate } = told.camera;
    by("camera").textContent = `${width} x ${height}, ${rate || "…"} frames/s;`;
    by("light").textContent = `light ${told.light} %${told.light_advice ? `, ${told.light_advice}` : ""}`;
    const list = by("faces");
    list.replaceChildren();
    for (const face of told.faces) {
      const sharp = face.sharp ? "sharp" : "blurred";
      const light = `light ${face.light} %${face.light_advice ? `, ${face.light_advice}` : ""}`;
      item(list, `face of ${face.px} px, turned ${face.turn}°, ${light}, ${sharp}: ${face.why}`,
        face.accepted ? "good" : "bad");
    }
    if (!told.faces.length) item(list, "nobody in view");
    paint();
  }
  progress(told.enrolment);
  lines(told.outputs || []);
}

function paint() {
  const told = state.seen;
  if (!told || told.waiting) return;
  const view = by("view"), on = view.getContext("2d");
  view.height = Math.round(view.width * told.height / told.width);
  const bytes = atob(told.rgb), data = new ImageData(told.width, told.height);
  for (let pixel = 0; pixel < told.width * told.height; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      data.data[pixel * 4 + channel] = bytes.charCodeAt(pixel * 3 + channel);
    }
    data.data[pixel * 4 + 3] = 255;
  }
  const small = new OffscreenCanvas(told.width, told.height);
  small.getContext("2d").putImageData(data, 0, 0);
  on.imageSmoothingEnabled = false;
  on.drawImage(small, 0, 0, view.width, view.height);
  const at = ([x, y]) => [x * view.width / 1000, y * view.height / 1000];
  const corners = state.drawn || state.zone;
  if (corners && corners.length) {
    on.beginPath();
    corners.forEach((corner, n) => (n ? on.lineTo(...at(corner)) : on.moveTo(...at(corner))));
    on.closePath();
    on.fillStyle = "#2457c533"; on.fill();
    on.lineWidth = 4; on.strokeStyle = state.drawn ? "#ffb300" : "#5b8cff"; on.stroke();
    if (state.drawn) {
      on.fillStyle = "#ffb300";
      for (const corner of corners) { on.beginPath(); on.arc(...at(corner), 12, 0, 7); on.fill(); }
    }
  }
  for (const face of told.faces) {
    const [[x0, y0], [x1, y1]] = face.box.map(at);
    on.lineWidth = 5; on.strokeStyle = face.accepted ? "#3ddc84" : "#ff6b5e";
    on.strokeRect(x0, y0, x1 - x0, y1 - y0);
    on.fillStyle = "#fff";
    for (const point of face.points) { on.beginPath(); on.arc(...at(point), 5, 0, 7); on.fill(); }
  }
}

// The zone

function tools(drawing) {
  by("zone-new").hidden = drawing;
  for (const name of ["zone-save", "zone-cancel", "zone-help"]) by(name).hidden = !drawing;
}

function place(event) {
  const box = by("view").getBoundingClientRect();
  const share = (value, from, size) => Math.round(Math.min(Math.max((value - from) / size, 0), 1) * 1000);
  return [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)];
}

by("zone-new").addEventListener("click", () => { state.drawn = []; tools(true); paint(); });
by("zone-cancel").addEventListener("click", () => { state.drawn = null; tools(false); paint(); });
by("zone-save").addEventListener("click", doing(async () => {
  await post("/do/zone", { corners: state.drawn });
  state.zone = state.drawn; state.drawn = null; tools(false); paint();
}));
by("view").addEventListener("pointerdown", (event) => {
  if (!state.drawn) return;
  const [x, y] = place(event);
  state.held = state.drawn.findIndex(([a, b]) => Math.hypot(a - x, b - y) < GRIP);
  if (state.held < 0 && state.drawn.length < MAX_CORNERS) state.held = state.drawn.push([x, y]) - 1;
  by("view").setPointerCapture(event.pointerId);
  paint();
});
by("view").addEventListener("pointermove", (event) => {
  if (state.drawn && state.held !== null && state.held >= 0) { state.drawn[state.held] = place(event); paint(); }
});
by("view").addEventListener("pointerup", () => { state.held = null; });

// The checks

by("check-all").addEventListener("click", doing(async () => {
  by("check-all").disabled = true;
  const list = by("findings");
  list.replaceChildren();
  try {
    const { checks } = await post("/do/checks");
    for (const check of checks) {
      const waiting = item(list, `${check}: …`);
      const { findings } = await post("/do/check", { check }).catch((error) => {
        if (error.status === 0 || error.status === 401) throw error; // nobody is there to ask
        return { findings: [{ check, state: "fault", text: error.message }] };
      });
      waiting.remove();
      for (const one of findings) {
        const mark = { ok: "ok", advice: "look", fault: "FAULT" }[one.state];
        item(list, `${mark}  ${one.check}: ${one.text}`, one.state === "ok" ? "good" : one.state === "fault" ? "bad" : "");
      }
    }
  } finally {
    by("check-all").disabled = false;
  }
}));

// Enrolling

const readNotice = doing(async () => {
  const told = await post("/do/notice");
  by("notice").textContent = told.text;
  by("days").max = told.most_days;
});

async function digest(input) {
  const file = by(input).files[0];
  if (!file || !file.size) throw new Refused(0, "Choose the file with what was signed: it must not be empty.");
  const hash = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return "sha256:" + Array.from(new Uint8Array(hash), (one) => one.toString(16).padStart(2, "0")).join("");
}

function step(name) {
  for (const one of ["notice", "consent", "captures", "receipt"]) by(`step-${one}`).hidden = one !== name;
}

by("read").addEventListener("change", () => { if (by("read").checked) step("consent"); });
by("age").addEventListener("change", () => { by("guardian-part").hidden = by("age").value === "of_age"; });
by("begin").addEventListener("click", doing(async () => {
  const asked = { evidence: await digest("evidence"), age_class: by("age").value, days: Number(by("days").value) };
  if (asked.age_class !== "of_age") asked.guardian = await digest("guardian");
  await post("/do/enrol/begin", asked);
  step("captures");
}));
by("abort").addEventListener("click", doing(async () => {
  try { await post("/do/enrol/abort"); } finally { again(); }
}));
const keep = doing(async () => {
  const told = await post("/do/enrol/commit");
  const rows = {
    Subject: told.subject, Unit: `${told.site}/${told.unit}`, Purpose: told.purpose, Notice: told.notice_version,
    "Signed form": told.evidence, From: told.given_at, Until: told.expires_at, Captures: told.captures,
  };
  by("receipt").replaceChildren();
  for (const [name, value] of Object.entries(rows)) {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name; text.textContent = value;
    by("receipt").append(term, text);
  }
  step("receipt");
});
by("commit").addEventListener("click", keep);
by("print").addEventListener("click", () => window.print());
by("next").addEventListener("click", () => again());

function again() {
  by("read").checked = false;
  by("evidence").value = by("guardian").value = "";
  step("notice");
}

function progress(told) {
  if (!told || by("step-captures").hidden) return;
  if (told.state === "committed") { keep(); return; } // it is kept, and the receipt came too late or not at all
  by("advice").textContent = told.state === "complete" ? "Done: keep it?" : told.advice || "good, stay for a moment";
  if (told.wanted) {
    by("captures").max = told.wanted;
    by("captures").value = told.captured;
    by("captured").textContent = `${told.captured} of ${told.wanted}`;
  }
  by("commit").hidden = told.state !== "complete";
}

// The outputs

function lines(names) {
  const list = by("lines");
  if (list.dataset.names === names.join(" ")) return;
  list.dataset.names = names.join(" ");
  list.replaceChildren();
  if (!names.length) item(list, "this unit has no output line");
  for (const name of names) {
    const button = document.createElement("button");
    button.textContent = `Try ${name}`;
    button.addEventListener("click", doing(async () => {
      await post("/do/pulse", { output: name });
      button.textContent = `Try ${name} (was on)`;
    }));
    item(list, "").append(button);
  }
}

if (location.hash.length > 1) { // the link that 'postern console open' prints carries the code; it is sent to nobody
  by("code").value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", "/");
}
