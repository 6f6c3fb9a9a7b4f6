//! Your trainer: logistic regression by gradient descent, to begin with. json.rs reads and prints JSON.

mod json;

use json::{print_list, quoted, Json};
use std::{env, process};

struct Model {
    w: Vec<f64>,
    b: f64,
}

struct Row {
    x: Vec<f64>,
    y: f64,
}

/// Say why on standard error, and end with status 1: a trainer never trains on anything made up.
fn fail(why: &str) -> ! {
    eprintln!("{}", why);
    process::exit(1)
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// The JSON in a variable that must be there.
fn input(name: &str) -> Json {
    let text = variable(name);
    if text.is_empty() {
        fail(&format!("{} is not set", name));
    }
    json::parse(&text).unwrap_or_else(|why| fail(&format!("{}: {}", name, why)))
}

fn read_model() -> Model {
    let told = input("MODEL_DATA");
    match (told.get("w").and_then(Json::numbers), told.get("b").and_then(Json::number)) {
        (Some(w), Some(b)) => Model { w, b },
        _ => fail("the model needs `w`, a list of numbers, and `b`, a number"),
    }
}

fn read_rows(features: usize) -> Vec<Row> {
    let told = input("DATASET_DATA");
    let rows: Option<Vec<Row>> = told.get("data").and_then(Json::list).and_then(|rows| rows.iter().map(read_row).collect());
    let rows = rows.unwrap_or_else(|| fail("DATASET_DATA needs `data`: rows of `x`, a list of numbers, and `y`"));
    if rows.is_empty() {
        fail("there are no rows to train on");
    }
    for (i, row) in rows.iter().enumerate() {
        if row.x.len() != features {
            fail(&format!("row {} has {} features, the model has {}", i, row.x.len(), features));
        }
    }
    rows
}

fn read_row(row: &Json) -> Option<Row> {
    Some(Row { x: row.get("x")?.numbers()?, y: row.get("y")?.number()? })
}

impl Model {
    fn probability(&self, x: &[f64]) -> f64 {
        let z: f64 = self.w.iter().zip(x).map(|(w, x)| w * x).sum();
        1.0 / (1.0 + (-(z + self.b)).exp())
    }

    /// One pass over the data in a random order, a step for every row.
    fn epoch(&mut self, rows: &[Row], lr: f64, chance: &mut Chance) {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, (chance.next() % (i as u64 + 1)) as usize);
        }
        for row in order.into_iter().map(|i| &rows[i]) {
            let error = self.probability(&row.x) - row.y;
            for (w, x) in self.w.iter_mut().zip(&row.x) {
                *w -= lr * error * x;
            }
            self.b -= lr * error;
        }
    }

    fn loss(&self, rows: &[Row]) -> f64 {
        let of = |row: &Row| {
            let p = self.probability(&row.x);
            -(if row.y > 0.5 { p } else { 1.0 - p }).max(1e-300).ln()
        };
        rows.iter().map(of).sum::<f64>() / rows.len() as f64
    }
}

/// SplitMix64: all of a trainer's randomness follows from SEED.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn main() {
    let mut model = read_model();
    let rows = read_rows(model.w.len());
    let told = if variable("HYPERPARAMS").is_empty() { Json::Null } else { input("HYPERPARAMS") };
    let told = |name: &str, otherwise: f64| told.get(name).and_then(Json::number).unwrap_or(otherwise);
    let mut update = String::new();
    if variable("FL_MODE") != "evaluate" {
        let mut chance = Chance(variable("SEED").parse().unwrap_or(0));
        for _ in 0..told("epochs", 1.0) as u64 {
            model.epoch(&rows, told("lr", 0.01), &mut chance);
        }
        if !model.b.is_finite() || model.w.iter().any(|w| !w.is_finite()) {
            fail("training diverged; a smaller lr may help");
        }
        update = format!(",\"update\":{{\"w\":{},\"b\":{}}}", print_list(&model.w), model.b);
    }
    println!(
        "{{\"round_id\":{},\"proplet_id\":{},\"base_model_uri\":{},\"num_samples\":{},\"metrics\":{{\"loss\":{}}}{}}}",
        quoted(&variable("ROUND_ID")),
        quoted(&variable("PROPLET_ID")),
        quoted(&variable("MODEL_URI")),
        rows.len(),
        model.loss(&rows),
        update
    );
}
