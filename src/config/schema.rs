//! The keys as a JSON schema, for editors. Only `plumbd check` can check what depends on
//! the whole file or on the system, such as links, programs and sockets.

use super::keys;
use crate::plugin::PLUGINS;
use crate::schema::editor::table;
use serde_json::{Value, json};

/// The schema as text, with its newline: what `plumbd schema` prints and
/// share/plumbd/plumbd.schema.json holds.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&schema()).expect("a JSON value is always JSON");
    text.push('\n');
    text
}

/// The schema.
pub fn schema() -> Value {
    let mut schema = table(keys::FILE);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Configuration of plumbd");
    plugins(&mut schema["properties"]["children"]["additionalProperties"]);
    schema
}

/// A child has `plugin` or `command`, and the settings of its plugin.
fn plugins(child: &mut Value) {
    child["oneOf"] = json!([{"required": ["plugin"]}, {"required": ["command"]}]);
    let settings = PLUGINS.iter().map(|plugin| {
        let mut settings = table(plugin.keys);
        let needed: &[&str] = if settings.get("required").is_some() { &["settings"] } else { &[] };
        settings["description"] = json!(format!("Settings of {}.", plugin.name));
        json!({
            "if": {"properties": {"plugin": {"const": plugin.name}}, "required": ["plugin"]},
            "then": {"properties": {"settings": settings}, "required": needed}
        })
    });
    child["allOf"] = settings.collect();
}
