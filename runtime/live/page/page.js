// Asks for news, draws them, and sends what a person chooses. Everything shown is text or pixels, never markup.

const element = (id) => document.getElementById(id);
const WAITS_MS = [500, 1000, 2000, 4000];
const ANSWER_MS = 20000; // longer than the server keeps a request waiting
const STALE_MS = 5000;
const NUMBERS_MS = 250; // numbers that change more often cannot be read
const SHARES = 5;
const LATELY = 9; // frames whose median time is shown: the first of a method takes longer

let about = null; // what there is to choose from, in this run of the server
let news = null; // the newest
let version = -1;
let seen = 0;
let parts = null; // pixels of the newest explained frame
let cameraFrame = 0;
let cameraSeenAt = performance.now();
let trouble = ""; // why the server cannot be reached
let pending = 0; // settings on their way: the controls are not set back meanwhile
let settled = -1; // nor by news from before they arrived
const lately = { forward: [], map: [], method: null, engine: null }; // milliseconds

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const shownAgain = () =>
  new Promise((done) => {
    if (!document.hidden) return done();
    document.addEventListener("visibilitychange", () => done(), { once: true });
  });

class Refusal extends Error {}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { signal: AbortSignal.timeout(ANSWER_MS), ...options });
  } catch {
    throw new Refusal("bitlens does not answer. Trying again …");
  }
  if (answer.status === 401) throw new Refusal("bitlens was started anew: open the address that it printed this time.");
  if (answer.status === 503) throw new Refusal("Too many pages are open: close one. Trying again …");
  return answer;
}

// The two loops: news, and the source as it is now.

async function followNews() {
  for (let failures = 0; ; ) {
    await shownAgain();
    try {
      if (about === null) await learn();
      const answer = await ask(`/news?run=${about.run}&version=${version}&seen=${seen}`);
      if (!answer.ok) throw new Refusal("bitlens refuses this page: open the address that it printed.");
      const content = await answer.arrayBuffer();
      const length = new DataView(content).getUint32(0, true);
      const fresh = JSON.parse(new TextDecoder().decode(new Uint8Array(content, 4, length)));
      if (fresh.run !== about.run) {
        about = null; // another run: everything may be different
        continue;
      }
      failures = 0;
      trouble = "";
      await take(fresh, content, 4 + length);
      if (fresh.is_over) throw new Refusal("bitlens was ended. Waiting for it to be started again …");
    } catch (error) {
      trouble = error instanceof Refusal ? error.message : "bitlens sent something odd. Trying again …";
      if (!(error instanceof Refusal)) console.error(error);
      showState();
      await sleep(WAITS_MS[Math.min(failures++, WAITS_MS.length - 1)]);
    }
  }
}

async function followCamera() {
  for (;;) {
    await shownAgain();
    if (about === null || trouble) {
      await sleep(300);
      continue;
    }
    try {
      const answer = await ask(`/camera?run=${about.run}&frame=${cameraFrame}`);
      if (answer.status === 204) continue; // none came in time
      if (!answer.ok) throw new Refusal(answer.statusText);
      cameraFrame = Number(answer.headers.get("X-Frame"));
      cameraSeenAt = performance.now();
      await draw(element("camera"), await answer.blob());
    } catch {
      await sleep(1000);
    }
  }
}

async function learn() {
  const answer = await ask("/about");
  if (!answer.ok) throw new Refusal("bitlens refuses this page: open the address that it printed.");
  const fresh = await answer.json();
  if (element("method").dataset.bitlens && element("method").dataset.bitlens !== fresh.bitlens) location.reload();
  element("method").dataset.bitlens = fresh.bitlens;
  about = fresh;
  version = settled = -1;
  seen = cameraFrame = 0;
  const { name, precision, width, height, channels } = about.network;
  element("network").textContent = [name, precision].filter(Boolean).join(" · ");
  element("input-caption").textContent = `network input, ${width}×${height}${channels === 1 ? " grey" : ""}`;
  document.documentElement.style.setProperty("--across", width);
  document.documentElement.style.setProperty("--down", height);
  fill("method", about.methods.map((each) => [each.name, `${each.title} · ${passes(each)}`]));
  fill("target", [["predicted", "the predicted one"], ...about.labels.map((label, index) => [String(index), label])]);
  fill("layer", [["", "the last"], ...about.layers.map((each) => [each, each])]);
  fill("engine", about.engines.map((each) => [each.name, each.problem ? `${each.name} · ${each.problem}` : each.name, each.problem]));
}

function passes({ forward, backward, at_most }) {
  const count = [forward, backward].filter(Boolean).map((each) => each.toLocaleString("en"));
  return `${at_most ? "at most " : ""}${count.join(" + ")} ${forward + backward === 1 ? "pass" : "passes"}`;
}

function fill(id, rows) {
  const options = rows.map(([value, text, problem]) => {
    const option = new Option(text, value);
    option.disabled = Boolean(problem);
    return option;
  });
  element(id).replaceChildren(...options);
}

// Drawing.

async function draw(canvas, blob) {
  const bitmap = await createImageBitmap(blob);
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
}

async function take(fresh, content, offset) {
  news = fresh;
  version = fresh.version;
  if (fresh.parts.length) {
    const [jpeg, map, input] = fresh.parts.map((length) => {
      const part = new Uint8Array(content, offset, length);
      offset += length;
      return part;
    });
    seen = fresh.explained_version;
    parts = { map, input, explained: fresh.explained };
    await draw(element("picture"), new Blob([jpeg], { type: "image/jpeg" }));
    drawMap();
    drawInput();
    element("frame").dataset.number = fresh.explained.frame;
    element("frame").dataset.method = fresh.explained.method ?? "";
    if (fresh.explained.method !== lately.method || fresh.explained.engine !== lately.engine) lately.map.length = 0;
    Object.assign(lately, { method: fresh.explained.method, engine: fresh.explained.engine });
    remember(lately.forward, fresh.explained.forward_latency_ms);
    remember(lately.map, fresh.explained.map_latency_ms);
  }
  showChoices();
  showBadge();
  showState();
}

function colourOf(mode, signed) {
  const table = about.colours[signed ? "signed" : "unsigned"];
  const last = table.length - 1;
  return (index) => {
    const share = index / last;
    if (mode === "grey") return [Math.round(255 * share), Math.round(255 * share), Math.round(255 * share), 255];
    const strength = signed ? Math.abs(2 * share - 1) : share;
    return [...table[index], mode === "through" ? Math.round(255 * strength) : 255];
  };
}

function drawMap() {
  const canvas = element("map");
  const { width, height } = about.network;
  canvas.width = width;
  canvas.height = height;
  if (!parts?.map.length) return;
  const signed = parts.explained.signed;
  const colour = colourOf(element("colours").value, signed);
  const pixels = new ImageData(width, height);
  parts.map.forEach((index, place) => pixels.data.set(colour(index), 4 * place));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const bar = element("bar");
  const line = new ImageData(bar.width, 1);
  const opaque = colourOf(element("colours").value === "grey" ? "grey" : "full", signed);
  for (let place = 0; place < bar.width; place++) line.data.set(opaque(place), 4 * place);
  bar.getContext("2d").putImageData(line, 0, 0);
  element("legend-low").textContent = signed ? "against the class" : "nothing";
  element("legend-middle").textContent = signed ? "nothing" : "";
  element("legend-high").textContent = signed ? "for the class" : "most";
}

function drawInput() {
  const canvas = element("input");
  const { width, height, channels } = about.network;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const pixels = new ImageData(width, height);
  const size = width * height;
  for (let place = 0; place < size; place++) {
    for (let channel = 0; channel < 3; channel++) pixels.data[4 * place + channel] = parts.input[(channels === 1 ? 0 : channel * size) + place];
    pixels.data[4 * place + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// What is known, as text.

function put(id, text) {
  if (element(id).textContent !== text) element(id).textContent = text;
}

function showChoices() {
  if (pending || version < settled) return;
  const { method, target, layer, engine, frozen } = news.settings;
  const values = { method, target: String(target), layer: layer ?? "", engine };
  for (const [id, value] of Object.entries(values)) {
    const select = element(id);
    if (select.value !== value && document.activeElement !== select) select.value = value;
  }
  const chosen = about.methods.find((each) => each.name === method);
  element("layer").disabled = !chosen.looks_at_layer;
  put("meaning", chosen.meaning);
  element("freeze").setAttribute("aria-pressed", String(frozen));
  put("freeze", frozen ? "Go on" : "Freeze");
  element("frozen").hidden = !frozen;
}

function reasonOf(badge, isRunning, whyNot) {
  if (isRunning) return "The golden inputs once more, on this engine and on the reference.";
  if (whyNot) return `${badge.reason} ${sentence(whyNot)}`;
  return badge.kind === "none" ? `${badge.reason} Verifying it takes seconds on a computer, a minute or more on a small board.` : badge.reason;
}

let wasVerifying = false;
function showBadge() {
  const { badge, verification, why_not_verifiable: whyNot, settings } = news;
  const running = Boolean(verification?.is_running);
  const own = running && verification.engine === settings.engine;
  const share = `${Math.floor(100 * (verification?.share ?? 0))} %`;
  element("badge").dataset.kind = own ? "running" : badge.kind;
  put("badge-text", own ? `verifying, ${share}` : badge.text);
  put("badge-reason", reasonOf(badge, own, whyNot));
  put("badge-commands", own ? "" : badge.commands.map((each) => `$ ${each}`).join("\n"));
  element("badge-commands").hidden = own || !badge.commands.length;
  element("verify").hidden = Boolean(whyNot) || (badge.kind === "here" && !running);
  element("verify").disabled = running;
  put("verify", running ? `Verifying ${verification.engine}, ${share}` : "Verify here");
  element("verify-progress").hidden = !running;
  element("verify-progress").value = verification?.share ?? 0;
  if (wasVerifying && !running && verification) say(sentence(verification.outcome));
  wasVerifying = running;
}

function showState() {
  let notice = trouble;
  let state = trouble ? "gone" : "live";
  if (!notice && news) {
    const { condition, message, title } = news.source;
    put("source", title);
    if (condition === "gone") [notice, state] = [`${sentence(message)} Trying again …`, "gone"];
    else if (condition === "opening") [notice, state] = [`Opening ${title} …`, "waiting"];
    else if (news.problem) notice = sentence(news.problem);
    else if (news.explained === null) [notice, state] = ["Waiting for the first picture …", "waiting"];
    else if (news.explained.refusal) notice = `No map: ${news.explained.refusal}.`;
    else if (performance.now() - cameraSeenAt > STALE_MS && !document.hidden)
      notice = `No new picture for ${5 * Math.floor((performance.now() - cameraSeenAt) / 5000)} s`;
    else if (news.explained.is_zero) notice = "The map is zero everywhere: the method found nothing that moves this class.";
  }
  if (!news && !trouble) [notice, state] = ["Connecting …", "waiting"];
  put("notice", notice);
  element("frame").dataset.state = state;
  const progress = trouble ? null : news?.progress;
  element("working").hidden = !progress;
  if (progress) {
    element("progress").value = Math.min(1, progress.done / Math.max(1, progress.of));
    put("working-text", `${progress.done.toLocaleString("en")} of ${progress.of.toLocaleString("en")} passes`);
  }
}

const sentence = (text) => (/^\w+:\/\//.test(text) ? `${text}.` : `${text[0].toUpperCase()}${text.slice(1)}.`);
const median = (values) => [...values].sort((one, other) => one - other)[values.length >> 1];

function remember(values, value) {
  values.push(value);
  if (values.length > LATELY) values.shift();
}

const number = (value) => (value === undefined ? "–" : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

function showNumbers() {
  showState();
  if (!news || trouble) return;
  put("forward", number(median(lately.forward)));
  put("map-time", number(median(lately.map)));
  put("explained-rate", news.settings.frozen ? "0" : news.explained_frames_per_second.toFixed(1));
  put("source-rate", news.source_frames_per_second.toFixed(1));
  const { temperature_celsius: celsius, slowed_by: now, slowed_since_start: before } = news.board;
  put("temperature", celsius === null ? "unknown" : `${celsius.toFixed(0)} °C`);
  put("throttling", now === null ? "unknown" : now.length ? now.join(", ") : before.length ? `none now; ${before.join(", ")} before` : "none");
  element("throttling").classList.toggle("slow", Boolean(now?.length));
  element("throttling").title = element("throttling").textContent;
  const explained = news.explained;
  if (!explained) return;
  const rows = element("classes").children;
  explained.classes.forEach((each, place) => {
    const row = rows[place];
    row.classList.toggle("explained", each.class === explained.target);
    row.querySelector(".name").textContent = each.label;
    row.querySelector(".fill").style.transform = `scaleX(${each.softmax})`;
    row.querySelector(".share").textContent = `${(100 * each.softmax).toFixed(1)} %`;
  });
  [...rows].forEach((row, place) => (row.hidden = place >= explained.classes.length));
  const [best] = explained.classes;
  const method = about.methods.find((each) => each.name === explained.method)?.title ?? "no map";
  element("picture").setAttribute("aria-label", `${best.label}, ${(100 * best.softmax).toFixed(0)} percent; ${method} for ${explained.label}`);
}

for (let place = 0; place < SHARES; place++) {
  const row = document.createElement("li");
  for (const name of ["name", "track", "share"]) {
    const span = document.createElement("span");
    span.className = name;
    row.append(span);
  }
  const bar = document.createElement("span");
  bar.className = "fill";
  bar.style.transform = "scaleX(0)";
  row.querySelector(".track").append(bar);
  row.querySelector(".name").textContent = "–";
  element("classes").append(row);
}

// What a person chooses. How it looks is kept for the next visit, where the browser lets us.

function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // a private window: it is not kept
  }
}

function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

let saidTimer = 0;
function say(text) {
  put("said", text);
  clearTimeout(saidTimer);
  saidTimer = setTimeout(() => put("said", ""), 12000);
}

let sent = Promise.resolve(); // one after the other, so that what was chosen last is what holds
function send(path, content) {
  pending++;
  sent = sent.then(() => sendNow(path, content));
  return sent;
}

async function sendNow(path, content) {
  try {
    const answer = await ask(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
    });
    const told = await answer.json();
    if (told.error) say(sentence(told.error));
    settled = told.version ?? settled;
    return told.error ? null : told;
  } catch (error) {
    say(error instanceof Refusal ? error.message : "bitlens sent something odd.");
    return null;
  } finally {
    pending--;
  }
}

const wishes = {
  method: (value) => ({ method: value }),
  target: (value) => ({ target: value === "predicted" ? value : Number(value) }),
  layer: (value) => ({ layer: value || null }),
  engine: (value) => ({ engine: value }),
};
for (const [id, wish] of Object.entries(wishes))
  element(id).addEventListener("change", () => send("/settings", wish(element(id).value)));

function next(id, step) {
  const select = element(id);
  const usable = [...select.options].filter((each) => !each.disabled);
  const place = usable.findIndex((each) => each.value === select.value);
  select.value = usable[(place + step + usable.length) % usable.length].value;
  select.dispatchEvent(new Event("change"));
  say(select.selectedOptions[0].textContent);
}

function keepOrFollow() {
  if (!news?.explained) return;
  const kept = news.settings.target !== "predicted";
  element("target").value = kept ? "predicted" : String(news.explained.target);
  element("target").dispatchEvent(new Event("change"));
  say(kept ? "Explains the predicted class." : `Explains ${news.explained.label} from now on.`);
}

const freeze = () => news && send("/settings", { frozen: !news.settings.frozen });

async function verify() {
  if (element("verify").hidden) return say(`${sentence(news.badge.text)} ${element("badge-reason").textContent}`);
  if (element("verify").disabled) return;
  element("verify").disabled = true;
  if (!(await send("/verify", {}))) element("verify").disabled = false;
}

async function snapshot() {
  element("snapshot").disabled = true;
  const told = await send("/snapshot", {});
  if (told) say(`Saved ${told.folder}`);
  element("snapshot").disabled = false;
}

function setOpacity(value) {
  element("opacity").value = value;
  element("opacity-value").value = `${element("opacity").value} %`;
  element("map").style.opacity = element("opacity").value / 100;
  keep("opacity", element("opacity").value);
}

element("opacity").addEventListener("input", () => setOpacity(element("opacity").value));
element("colours").addEventListener("change", () => {
  keep("colours", element("colours").value);
  if (about) drawMap();
});
element("freeze").addEventListener("click", freeze);
element("snapshot").addEventListener("click", snapshot);
element("verify").addEventListener("click", verify);
document.addEventListener("visibilitychange", () => (cameraSeenAt = performance.now())); // nothing was asked for meanwhile
element("shortcuts").addEventListener("change", () => keep("shortcuts", element("shortcuts").checked));

const keys = {
  m: () => next("method", 1),
  M: () => next("method", -1),
  t: keepOrFollow,
  e: () => next("engine", 1),
  c: () => next("colours", 1),
  "[": () => setOpacity(Number(element("opacity").value) - 10),
  "]": () => setOpacity(Number(element("opacity").value) + 10),
  f: freeze,
  s: snapshot,
  v: verify,
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") element("badge").open = false;
  if (event.repeat && !"[]".includes(event.key)) return; // a key that is held down chooses once
  const typing = event.target.closest?.("select, input:not([type=range], [type=checkbox])");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !element("shortcuts").checked || !about) return;
  if (Object.hasOwn(keys, event.key)) {
    event.preventDefault();
    keys[event.key]();
  }
});

if ([...element("colours").options].some((each) => each.value === kept("colours")))
  element("colours").value = kept("colours");
element("shortcuts").checked = kept("shortcuts") !== "false";
setOpacity(Number(kept("opacity") ?? 75));
setInterval(showNumbers, NUMBERS_MS);
followNews();
followCamera();
