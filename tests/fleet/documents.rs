//! docs/fleet.md says every key: its tables are the schema's. `SMOLFREEZE_WRITE_DOCS=1` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use smolfreeze::fleet::file::File;

const BEGIN: &str = "<!-- The keys, from the schema: tests/fleet/documents.rs holds them. -->\n";
const END: &str = "<!-- The end of the keys. -->\n";

struct Keys<'a> {
    definitions: &'a Value,
    told: BTreeSet<String>,
    text: String,
}

impl<'a> Keys<'a> {
    /// The definition that a value's schema leads to, by its name.
    fn definition(&self, schema: &'a Value) -> Option<(&'a str, &'a Value)> {
        let direct = schema["$ref"].as_str().and_then(|at| at.rsplit('/').next());
        if let Some(name) = direct {
            return Some((name, &self.definitions[name]));
        }
        let several = schema["anyOf"].as_array()?;
        self.definition(several.iter().find(|one| one["$ref"].is_string())?)
    }

    fn kind(&self, schema: &'a Value) -> String {
        if let Some((name, definition)) = self.definition(schema) {
            return match name {
                "Size" => "size".to_owned(),
                "Period" => "duration".to_owned(),
                "TimeOfDay" => "time of day".to_owned(),
                "Keep" => "number or `\"unlimited\"`".to_owned(),
                "KeepWithin" => "`1y5m7d2h`".to_owned(),
                "Part" => "`\"all\"` or `\"5%\"`".to_owned(),
                _ => match definition["oneOf"].as_array() {
                    Some(words) => {
                        let words = words.iter().filter_map(|word| word["const"].as_str());
                        words.map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
                    }
                    None => "table".to_owned(),
                },
            };
        }
        let named = |word: &str| match word {
            "array" => format!("list of {}s", self.kind(&schema["items"])),
            "object" => format!("table of {}s", self.kind(&schema["additionalProperties"])),
            "string" => "text".to_owned(),
            "boolean" => "true or false".to_owned(),
            "integer" => "number".to_owned(),
            other => other.to_owned(),
        };
        match &schema["type"] {
            Value::String(word) => named(word),
            Value::Array(words) => {
                words.iter().filter_map(Value::as_str).find(|word| *word != "null").map(named).unwrap()
            }
            _ => panic!("{schema}"),
        }
    }

    /// One table, and those in it.
    fn table(&mut self, path: &str, schema: &'a Value) {
        if !path.is_empty() {
            let _ = write!(self.text, "### `{path}`\n\n{}\n\n", line(&schema["description"]));
        }
        self.text.push_str("| key | is | by default | what it says |\n|---|---|---|---|\n");
        let properties = schema["properties"].as_object().unwrap();
        for (key, property) in properties {
            let (kind, default) = (self.kind(property), default(&property["default"]));
            let _ = writeln!(self.text, "| `{key}` | {kind} | {default} | {} |", line(&property["description"]));
        }
        self.text.push('\n');
        for (key, property) in properties {
            let (inside, below) = match (&property["items"], &property["additionalProperties"]) {
                (Value::Null, Value::Null) => (property, key.clone()),
                (Value::Null, values) => (values, format!("{key}.NAME")),
                (items, _) => (items, format!("[{key}]")),
            };
            let Some((name, definition)) = self.definition(inside) else { continue };
            // What defaults say is told where policies say it.
            if definition["properties"].is_object() && path != "defaults" && self.told.insert(name.to_owned()) {
                let below = if path.is_empty() { below } else { format!("{path}.{below}") };
                self.table(&below, definition);
            }
        }
    }
}

fn line(text: &Value) -> String {
    text.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn default(value: &Value) -> String {
    match value {
        Value::Null | Value::Object(_) => String::new(),
        Value::Array(values) if values.is_empty() => String::new(),
        other => format!("`{other}`"),
    }
}

#[test]
fn the_page_says_every_key() {
    let schema = File::schema();
    let mut keys = Keys { definitions: &schema["$defs"], told: BTreeSet::new(), text: String::new() };
    keys.table("", &schema);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fleet.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (told, after) = rest.split_once(END).unwrap();
    if std::env::var_os("SMOLFREEZE_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}\n{}\n{END}{after}", keys.text.trim_end())).unwrap();
        return;
    }
    assert!(told.trim() == keys.text.trim(), "run this test with SMOLFREEZE_WRITE_DOCS=1 and look at the change");
}
