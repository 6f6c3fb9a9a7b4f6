//! JSON with the standard library alone: a value tree, and what a trainer prints. It knows no trainer.

const DEPTH_MAX: usize = 64;

#[derive(Clone, Debug)]
pub enum Json {
    Null,
    Bool,
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The member of that name, if this is an object that has it.
    pub fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    pub fn number(&self) -> Option<f64> {
        match self {
            Json::Number(value) => Some(*value),
            _ => None,
        }
    }

    pub fn list(&self) -> Option<&[Json]> {
        match self {
            Json::List(items) => Some(items),
            _ => None,
        }
    }

    /// The items of a list of nothing but numbers.
    pub fn numbers(&self) -> Option<Vec<f64>> {
        self.list()?.iter().map(Json::number).collect()
    }
}

/// The value in `text`, or what is wrong with it and where.
pub fn parse(text: &str) -> Result<Json, String> {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    let value = reader.value(0)?;
    match reader.peek() {
        0 => Ok(value),
        _ => reader.wrong("something follows the value"),
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn wrong<T>(&self, why: &str) -> Result<T, String> {
        Err(format!("malformed at byte {}: {}", self.at, why))
    }

    /// The next byte that is no white space; 0 at the end.
    fn peek(&mut self) -> u8 {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn take(&mut self, expected: u8) -> Result<(), String> {
        if self.peek() != expected {
            return self.wrong(&format!("expected {:?}", expected as char));
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Json, String> {
        if depth > DEPTH_MAX {
            return self.wrong("nested too deeply");
        }
        match self.peek() {
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'"' => Ok(Json::Text(self.text()?)),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.word(),
        }
    }

    /// Between the values of a container: whether another follows; its end is consumed.
    fn another(&mut self, closing: u8, first: bool) -> Result<bool, String> {
        if self.peek() == closing {
            self.at += 1;
            return Ok(false);
        }
        if !first {
            self.take(b',')?;
        }
        Ok(true)
    }

    fn object(&mut self, depth: usize) -> Result<Json, String> {
        let mut members = Vec::new();
        self.take(b'{')?;
        while self.another(b'}', members.is_empty())? {
            self.peek();
            let key = self.text()?;
            self.take(b':')?;
            members.push((key, self.value(depth + 1)?));
        }
        Ok(Json::Object(members))
    }

    fn list(&mut self, depth: usize) -> Result<Json, String> {
        let mut items = Vec::new();
        self.take(b'[')?;
        while self.another(b']', items.is_empty())? {
            items.push(self.value(depth + 1)?);
        }
        Ok(Json::List(items))
    }

    /// A finite number by the grammar; Rust's own reader would also take `inf` and a leading plus.
    fn number(&mut self) -> Result<Json, String> {
        let begin = self.at;
        while matches!(self.text.get(self.at), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let digits = std::str::from_utf8(&self.text[begin..self.at]).unwrap_or("");
        match digits.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(Json::Number(value)),
            _ => self.wrong("no finite number"),
        }
    }

    fn word(&mut self) -> Result<Json, String> {
        for (word, value) in [("null", Json::Null), ("true", Json::Bool), ("false", Json::Bool)] {
            if self.text[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.wrong("expected a value")
    }

    /// A string; escapes outside ASCII become `?`, which no name that a trainer knows has.
    fn text(&mut self) -> Result<String, String> {
        let mut bytes = Vec::new();
        self.take(b'"')?;
        loop {
            let byte = self.text.get(self.at).copied().unwrap_or(0);
            self.at += 1;
            match byte {
                b'"' => break,
                b'\\' => bytes.push(self.escape()?),
                0..=0x1f => return self.wrong("a string without an end"),
                _ => bytes.push(byte),
            }
        }
        String::from_utf8(bytes).or_else(|_| self.wrong("no UTF-8"))
    }

    fn escape(&mut self) -> Result<u8, String> {
        let name = self.text.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        match name {
            b'"' | b'\\' | b'/' => Ok(name),
            b'b' => Ok(8),
            b'f' => Ok(12),
            b'n' => Ok(b'\n'),
            b'r' => Ok(b'\r'),
            b't' => Ok(b'\t'),
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
                self.at += 4;
                match digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
                    Some(code) => Ok(if code < 0x80 { code as u8 } else { b'?' }),
                    None => self.wrong("bad escape in a string"),
                }
            }
            _ => self.wrong("bad escape in a string"),
        }
    }
}

/// A list of numbers; each in as many digits as bring back the same bits.
pub fn print_list(values: &[f64]) -> String {
    let items: Vec<String> = values.iter().map(f64::to_string).collect();
    format!("[{}]", items.join(","))
}

/// Text as a JSON string.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
