//! The JSON schema of `plumbd status --json`. A test makes it from the types and their comments,
//! and `UPDATE_EXPECT=1 cargo test --lib control::schema` writes it anew.

/// The schema as text, with its newline: what `plumbd schema status` prints.
pub const STATUS: &str = include_str!("../../share/plumbd/plumbd-status.schema.json");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Status;
    use schemars::generate::SchemaSettings;
    use serde_json::{Value, json};

    fn made() -> Value {
        let schema = SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<Status>();
        let mut schema = Value::from(schema);
        schema["title"] = json!("Status of plumbd");
        schema["description"] = json!(
            "What `plumbd status --json` prints, and `plumbd status CHILD --json`, which adds keys to each child. \
             Later versions may add keys, but never change any."
        );
        describe_alternatives(&mut schema);
        schema
    }

    /// Describes the only key of an alternative, such as `code`, with the words of the alternative.
    fn describe_alternatives(schema: &mut Value) {
        let Some(definitions) = schema["$defs"].as_object_mut() else { return };
        let alternatives =
            definitions.values_mut().filter_map(|definition| definition.get_mut("oneOf")?.as_array_mut());
        for alternative in alternatives.flatten() {
            let words = alternative["description"].clone();
            let keys = alternative.get_mut("properties").and_then(Value::as_object_mut).into_iter();
            keys.flat_map(|keys| keys.values_mut()).for_each(|key| key["description"] = words.clone());
        }
    }

    #[test]
    fn the_schema_is_that_of_the_types() {
        let made = serde_json::to_string_pretty(&made()).unwrap() + "\n";
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/share/plumbd/plumbd-status.schema.json");
            std::fs::write(path, &made).unwrap();
            return;
        }
        assert_eq!(STATUS, made, "UPDATE_EXPECT=1 cargo test --lib control::schema");
    }

    /// Hands each key of an object to `each`, with where it is.
    fn keys(schema: &Value, place: &str, each: &mut dyn FnMut(&str, &Value)) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            properties.iter().for_each(|(name, key)| each(&format!("{place}.{name}"), key));
        }
        match schema {
            Value::Object(object) => {
                object.iter().for_each(|(name, value)| keys(value, &format!("{place}/{name}"), each));
            }
            Value::Array(items) => items.iter().for_each(|value| keys(value, place, each)),
            _ => {}
        }
    }

    #[test]
    fn each_key_is_described_and_each_number_has_a_unit() {
        const UNITS: [&str; 10] =
            ["byte", "second", "percent", "process id", "number", "ow many", "ow often", "length", "CRC", "unit"];
        let (mut seen, mut bad) = (0, Vec::new());
        keys(&made(), "", &mut |place, key| {
            seen += 1;
            let text = key["description"].as_str().unwrap_or_default();
            let is_number = ["integer", "number"].iter().any(|kind| key["type"].to_string().contains(kind));
            // The status of an exit, and the version of this shape, have none.
            let has_unit =
                UNITS.iter().any(|unit| text.contains(unit)) || place.ends_with(".code") || place.ends_with(".version");
            if text.is_empty() || is_number && !has_unit {
                bad.push(format!("{place}: {text}"));
            }
        });
        assert!(seen > 80 && bad.is_empty(), "{seen} keys\n{}", bad.join("\n"));
    }

    #[test]
    fn keys_may_be_added() {
        assert!(!STATUS.contains("additionalProperties\": false"));
    }

    #[test]
    fn the_words_are_those_of_json() {
        assert!(!STATUS.contains("`None`") && !STATUS.contains("[`"));
    }
}
