//! The JSON schema that editors use: it refuses nothing that `plumbd check` accepts, and
//! finds the mistakes that a schema can find.

use crate::config::{BAD, GOOD, files, is_right, tables};
use plumbd::config::BUILTIN;
use plumbd::plugin::PLUGINS;
use plumbd::schema::kind::Kind;
use plumbd::schema::show;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether the schema of the configuration accepts each of these documents.
fn taken(documents: &[Value]) -> Vec<bool> {
    valid(&plumbd::config::schema::schema(), documents)
}

/// Whether a schema accepts each of these documents, according to Debian's
/// python3-jsonschema. Also checks that it is a schema.
pub fn valid(schema: &Value, documents: &[Value]) -> Vec<bool> {
    const VALIDATE: &str = "import json, sys, jsonschema\n\
                            schema, documents = json.load(sys.stdin)\n\
                            which = jsonschema.validators.validator_for(schema)\n\
                            which.check_schema(schema)\n\
                            validator = which(schema)\n\
                            json.dump([validator.is_valid(document) for document in documents], sys.stdout)";
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let question = serde_json::to_vec(&json!([schema, documents])).unwrap();
    python.stdin.take().unwrap().write_all(&question).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "python3-jsonschema is needed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The file as a value; `None` if it is not TOML.
fn document(path: &Path) -> Option<Value> {
    let text = String::from_utf8(std::fs::read(path).ok()?).ok()?;
    let table: toml::Table = text.trim_start_matches('\u{feff}').parse().ok()?;
    Some(serde_json::to_value(table).unwrap())
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

#[test]
#[ignore = "needs python3-jsonschema, run by .ci/run"]
fn every_right_file_is_accepted() {
    let mut paths = files(GOOD);
    paths.extend(files("../../etc"));
    let documents: Vec<Value> = paths.iter().map(|path| document(path).unwrap()).collect();
    for (path, taken) in paths.iter().zip(taken(&documents)) {
        assert!(taken, "{}", path.display());
    }
}

/// Bad files whose problem is within one table, so that a schema can find it.
const TELLING: [&str; 27] = [
    "addresses",
    "backoff-factor",
    "child-is-no-table",
    "child-names",
    "durations",
    "echo-settings",
    "empty",
    "environment",
    "instances-range",
    "limits",
    "link-lacks-ends",
    "links-as-one-table",
    "links-of-strings",
    "logger-settings",
    "logger-sync",
    "logger-without-file",
    "neither-plugin-nor-command",
    "plugin-and-command",
    "signals",
    "sizes",
    "tables-that-are-not",
    "umask",
    "unknown-keys",
    "unknown-nested-keys",
    "unknown-plugin",
    "words",
    "wrong-types",
];

#[test]
#[ignore = "needs python3-jsonschema, run by .ci/run"]
fn wrong_files_are_refused_if_a_schema_can_find_the_problem() {
    let (paths, documents): (Vec<_>, Vec<_>) =
        files(BAD).into_iter().filter_map(|path| Some((name(&path), document(&path)?))).unzip();
    let taken = taken(&documents);
    let refused: Vec<&String> = paths.iter().zip(&taken).filter(|(_, taken)| !**taken).map(|(name, _)| name).collect();
    let missed: Vec<&str> = TELLING.into_iter().filter(|telling| !refused.iter().any(|name| name == telling)).collect();
    assert_eq!(missed, Vec::<&str>::new(), "of those that are refused: {refused:?}");
}

/// A configuration in which that key of that table has this value.
fn with(table: &str, key: &str, value: &str) -> String {
    let set = |name: &str| if table == name { format!("{key} = {value}\n") } else { String::new() };
    let own = |name: &str, line: &str| {
        if table == name && line.starts_with(key) { String::new() } else { format!("{line}\n") }
    };
    let nested = |name: &str| if table == name { format!("{name} = {{ {key} = {value} }}\n") } else { String::new() };
    format!(
        "[daemon]\n{}[children.a]\n{}{}{}{}\n[children.echo]\nplugin = 'echo'\nlisten = ['tcp://127.0.0.1:7']\n\
         [children.echo.settings]\n{}[children.logger]\nplugin = 'logger'\n[children.logger.settings]\n{}{}{}\
         [[links]]\nfrom = 'echo'\nto = 'logger'\n[[links]]\n{}{}{}",
        set("[daemon]"),
        own("[children.NAME]", "command = ['sh']"),
        set("[children.NAME]"),
        nested("backoff"),
        nested("start_limit"),
        set("settings of echo"),
        own("settings of logger", "file = 'messages.log'"),
        set("settings of logger"),
        nested("rotate"),
        own("[[links]]", "from = 'a'"),
        own("[[links]]", "to = 'logger'"),
        set("[[links]]"),
    )
}

/// An editor must not complain about what is right.
#[test]
#[ignore = "needs python3-jsonschema, run by .ci/run"]
fn no_value_that_the_check_accepts_is_refused() {
    const VALUES: [&str; 24] = [
        "'x'",
        "''",
        "'a'",
        "'echo'",
        "'10s'",
        "'0s'",
        "'500h'",
        "'64KiB'",
        "'1B'",
        "'0640'",
        "'7'",
        "'SIGINT'",
        "'/tmp'",
        "0",
        "7",
        "-1",
        "2.5",
        "true",
        "[]",
        "['sh']",
        "['tcp://[::1]:80']",
        "['10.0.0.0/8', '::1']",
        "{}",
        "{ x = 'y' }",
    ];
    let mut cases = Vec::new();
    for (table, keys) in tables().iter().filter(|(table, _)| table != "the file") {
        for key in *keys {
            let words: Vec<String> = match key.kind {
                Kind::Words(words) | Kind::WordsOr(words, _) => {
                    words.iter().map(|(word, _)| format!("'{word}'")).collect()
                }
                _ => Vec::new(),
            };
            for value in VALUES.iter().map(|value| (*value).to_owned()).chain(words) {
                let text = with(table, key.name, &value);
                let document = serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap();
                cases.push((format!("{table} {} = {value}", key.name), is_right(&text), document));
            }
        }
    }
    let documents: Vec<Value> = cases.iter().map(|(.., document)| document.clone()).collect();
    let taken = taken(&documents);
    let wrongly: Vec<&String> = cases
        .iter()
        .zip(&taken)
        .filter(|((_, right, _), taken)| *right && !**taken)
        .map(|((case, ..), _)| case)
        .collect();
    assert_eq!(wrongly, Vec::<&String>::new());
    let right = cases.iter().filter(|(_, right, _)| *right).count();
    let refused = taken.iter().filter(|taken| !**taken).count();
    assert!(right > 100 && refused > 500, "{right} right, {refused} refused of {}", cases.len());
}

/// A manifest has the plugin's row, and its defaults are those of the check.
#[test]
fn each_plugin_describes_itself() {
    let plumbd = |words: &[&str], here: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_plumbd")).args(words).current_dir(here).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let effective = |text: &str| {
        std::fs::write(folder.path().join("plumbd.toml"), text).unwrap();
        plumbd(&["check", "--effective"], folder.path())
    };
    for plugin in PLUGINS {
        let described = plumbd(&["plugin", plugin.name, "--describe"], folder.path());
        let manifest: Value = serde_json::from_str(&described).unwrap();
        for (key, value) in [
            ("name", json!(plugin.name)),
            ("about", json!(plugin.about)),
            ("source", json!(plugin.source)),
            ("sink", json!(plugin.sink)),
            ("listens", json!(plugin.listens)),
            ("instances", json!(plugin.instances)),
            ("reload", json!([])),
        ] {
            assert_eq!(manifest[key], value, "{}", plugin.name);
        }
        let mut defaults = String::new();
        let rows = manifest["keys"].as_array().unwrap();
        assert_eq!(rows.len(), plugin.keys.len());
        for (row, key) in rows.iter().zip(plugin.keys) {
            assert_eq!((&row["name"], &row["required"]), (&json!(key.name), &json!(key.required)));
            assert_eq!((&row["line"], &row["text"]), (&json!(key.doc), &json!(key.text)));
            assert!(row["kind"].is_string(), "{row}");
            if let Some(default) = row.get("default") {
                defaults += &format!("{} = {}\n", key.name, show::json(default));
            }
        }
        // Writing out all defaults means the same as writing none.
        let header = format!("[children.{}.settings]\n", plugin.name);
        let (there, anew) = (BUILTIN.replace(&header, &format!("{header}{defaults}")), format!("{header}{defaults}"));
        let given = if there == BUILTIN { format!("{BUILTIN}\n{anew}") } else { there };
        assert_eq!(effective(&given), effective(BUILTIN));
        let metrics: Vec<&str> =
            manifest["metrics"].as_array().unwrap().iter().map(|metric| metric["name"].as_str().unwrap()).collect();
        assert_eq!(metrics, plugin.metrics.iter().map(|metric| metric.name).collect::<Vec<_>>());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_plumbd")).args(["plugin", "ecko", "--describe"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let why = "plumbd: cannot describe plugin \"ecko\": there are echo, logger\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), why);
}
