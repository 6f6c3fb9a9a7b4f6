// Your trainer: logistic regression by gradient descent, to begin with. It asks its host by the functions of
// module `env` (docs: the guest ABI), so it needs nothing of WASI.

@external("env", "get_env")
declare function get_env(name: usize, nameLength: i32, text: usize, length: usize): i32;
@external("env", "put_result")
declare function put_result(content: usize, length: i32): i32;

/** The host places its strings with this; they are for one round, and never given back. */
export function malloc(size: i32): usize {
  return heap.alloc(<usize>size);
}

const answer = memory.data(8);

/** A variable of the environment, null if there is none. */
function variable(name: string): string | null {
  const asked = String.UTF8.encode(name);
  if (!get_env(changetype<usize>(asked), asked.byteLength, answer, answer + 4)) return null;
  return String.UTF8.decodeUnsafe(load<u32>(answer), load<u32>(answer, 4));
}

function needed(name: string): string {
  const value = variable(name);
  assert(value !== null && value.length > 0, name + " is not set");
  return value!;
}

// --- JSON: as much as the inputs need --------------------------------------------------------------------------

/** Where the value of `name` begins in `text`, from `from` on; -1 if it is not there. */
function after(text: string, name: string, from: i32 = 0): i32 {
  let at = text.indexOf('"' + name + '"', from);
  if (at < 0) return -1;
  at = text.indexOf(":", at + name.length + 2) + 1;
  while (at < text.length && text.charCodeAt(at) <= 32) at++;
  return at;
}

/** The number at `at`. */
function number(text: string, at: i32): f64 {
  let end = at;
  while (end < text.length && "+-.eE0123456789".includes(text.charAt(end))) end++;
  const value = parseFloat(text.substring(at, end));
  assert(end > at && isFinite(value), "a number is malformed");
  return value;
}

/** The numbers of the list at `at`. */
function numbers(text: string, at: i32): Array<f64> {
  assert(at >= 0 && text.charAt(at) == "[", "a list is missing");
  const inside = text.substring(at + 1, text.indexOf("]", at)).trim();
  const found = new Array<f64>();
  if (inside.length == 0) return found;
  const parts = inside.split(",");
  for (let i = 0; i < parts.length; i++) found.push(number(parts[i].trim(), 0));
  return found;
}

function numberOr(text: string, name: string, otherwise: f64): f64 {
  const at = after(text, name);
  return at < 0 ? otherwise : number(text, at);
}

// --- training --------------------------------------------------------------------------------------------------

class Row {
  constructor(public x: Array<f64>, public y: f64) {}
}

class Model {
  constructor(public w: Array<f64>, public b: f64) {}

  probability(x: Array<f64>): f64 {
    let z = this.b;
    for (let j = 0; j < this.w.length; j++) z += this.w[j] * x[j];
    return 1 / (1 + Math.exp(-z));
  }

  step(row: Row, lr: f64): void {
    const error = this.probability(row.x) - row.y;
    for (let j = 0; j < this.w.length; j++) this.w[j] -= lr * error * row.x[j];
    this.b -= lr * error;
  }

  loss(rows: Array<Row>): f64 {
    let sum: f64 = 0;
    for (let i = 0; i < rows.length; i++) {
      const p = this.probability(rows[i].x);
      sum -= Math.log(Math.max(rows[i].y > 0.5 ? p : 1 - p, 1e-300));
    }
    return sum / <f64>rows.length;
  }
}

function readRows(text: string, features: i32): Array<Row> {
  const rows = new Array<Row>();
  let at = after(text, "x");
  while (at >= 0) {
    const x = numbers(text, at);
    const label = after(text, "y", at);
    assert(x.length == features && label >= 0, "a row does not fit the model");
    rows.push(new Row(x, number(text, label)));
    at = after(text, "x", label);
  }
  assert(rows.length > 0, "there are no rows to train on");
  return rows;
}

function quoted(text: string): string {
  return '"' + text.replaceAll("\\", "\\\\").replaceAll('"', '\\"') + '"';
}

export function run(): void {
  const base = needed("MODEL_DATA");
  const at = after(base, "b");
  assert(at >= 0, "the model has no b");
  const model = new Model(numbers(base, after(base, "w")), number(base, at));
  const rows = readRows(needed("DATASET_DATA"), model.w.length);
  const given = variable("HYPERPARAMS");
  const told = given === null ? "{}" : given;
  const mode = variable("FL_MODE");
  let update = "";
  if (mode === null || mode != "evaluate") {
    const epochs = <i32>numberOr(told, "epochs", 1);
    const lr = numberOr(told, "lr", 0.01);
    for (let epoch = 0; epoch < epochs; epoch++) {
      for (let i = 0; i < rows.length; i++) model.step(rows[i], lr);
    }
    update = ',"update":{"w":[' + model.w.join(",") + '],"b":' + model.b.toString() + "}";
  }
  const uri = variable("MODEL_URI");
  const content = String.UTF8.encode(
    '{"round_id":' + quoted(needed("ROUND_ID")) +
    ',"proplet_id":' + quoted(needed("PROPLET_ID")) +
    ',"base_model_uri":' + quoted(uri === null ? "" : uri) +
    ',"num_samples":' + rows.length.toString() +
    ',"metrics":{"loss":' + model.loss(rows).toString() + "}" + update + "}",
  );
  assert(put_result(changetype<usize>(content), content.byteLength) == 1, "the update could not be put");
}
