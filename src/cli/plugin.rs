//! `plumbd plugin NAME`: runs a built-in plugin, or describes it.

use super::{Failure, output};
use crate::journal;
use crate::plugin::Plugin;
use crate::plugin::start::Start;
use nix::sys::prctl::set_name;
use std::ffi::CString;
use std::io;

/// Prints its manifest.
pub(super) fn describe(plugin: &Plugin) -> Result<u8, Failure> {
    output::print(format!("{:#}\n", plugin.manifest()))?;
    Ok(0)
}

/// Runs the program of that name. If it fails, the reason is logged, with its priority.
pub(super) fn run(name: &str, run: fn(Start) -> Result<(), String>) -> Result<u8, Failure> {
    journal::plugin::start();
    // Started through /proc/self/exe, it would be "exe" in top(1) and systemd's messages.
    let process = CString::new(format!("plumbd-{name}")).map_err(io::Error::from);
    if let Err(error) = process.and_then(|process| Ok(set_name(&process)?)) {
        log::warn!("cannot name the process: {error}");
    }
    match Start::from_environment().and_then(run) {
        Ok(()) => Ok(0),
        Err(why) => {
            log::error!("{why}");
            Ok(Failure::FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::typed::Typed;
    use super::super::{completions, man};
    use crate::config::effective::effective;
    use crate::config::model::Model;
    use crate::config::plan::plan;
    use crate::config::{Problems, check_text, schema};
    use crate::plugin::{self, PLUGINS, Plugin};
    use clap::Parser;
    use std::path::Path;

    /// The plugin that exists only in tests: a folder and a row.
    fn null() -> &'static Plugin {
        plugin::find("null").expect("the table has it in tests")
    }

    fn check(settings: &str) -> Result<Model, Problems> {
        let text = format!(
            "[children.source]\ncommand = ['/bin/sh']\n[children.sink]\nplugin = 'null'\n\
             [children.sink.settings]\n{settings}\n[[links]]\nfrom = 'source'\nto = 'sink'\n"
        );
        check_text(text.as_bytes(), "x.toml", Path::new("/"))
    }

    fn model(settings: &str) -> Model {
        check(settings).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn a_folder_and_a_row_are_enough_for_the_check() {
        let wrong = check("pausse = '1s'\npause = 1").unwrap_err().to_string();
        assert!(
            wrong.contains("x.toml:6:1: unknown key \"pausse\" in [children.sink.settings]; did you mean \"pause\"?")
        );
        assert!(wrong.contains("x.toml:7:9: pause: the duration 1 has no unit; write \"1s\" or \"1ms\""), "{wrong}");
        let text = b"[children.sink]\nplugin = 'nul'\n";
        let wrong = check_text(text, "x.toml", Path::new("/")).unwrap_err().to_string();
        assert!(wrong.contains("did you mean \"null\"?"), "{wrong}");
        // A source may ask it for acknowledgements, and an error suggests it.
        let text = |to: &str| {
            format!(
                "[children.echo]\nplugin = 'echo'\nlisten = ['tcp://127.0.0.1:7']\n[children.null]\nplugin = 'null'\n\
                 [children.cat]\ncommand = ['/bin/sh']\n[[links]]\nfrom = 'echo'\nto = '{to}'\n"
            )
        };
        let to = |sink: &str| check_text(text(sink).as_bytes(), "x.toml", Path::new("/"));
        assert_eq!(to("null").map(|model| model.links.len()), Ok(1));
        let wrong = to("cat").unwrap_err().to_string();
        assert!(wrong.contains("or link to a logger or a null"), "{wrong}");
    }

    #[test]
    fn a_folder_and_a_row_are_enough_for_effective_and_plan() {
        let (before, after) = (model(""), model("pause = '90s'"));
        assert!(effective(&before).contains("[children.sink.settings]\npause = \"0s\"\n"), "{}", effective(&before));
        assert!(effective(&after).contains("pause = \"90s\"\n"), "{}", effective(&after));
        assert_eq!(
            plan(&before, &after).to_string().lines().last(),
            Some("restart  sink    settings.pause changes from \"0s\" to \"90s\"")
        );
    }

    /// Everything that lists plugins takes them from the table.
    #[test]
    fn every_plugin_is_in_the_manual_the_schema_and_the_completions() {
        let page = man::find("plumbd.toml").expect("the page").roff();
        let schema = schema::schema();
        let child = &schema["properties"]["children"]["additionalProperties"];
        let completed = completions::plugins();
        assert!(PLUGINS.iter().any(|plugin| plugin.name == null().name));
        for plugin in PLUGINS {
            let (name, capitals) = (plugin.name, plugin.name.to_uppercase());
            assert!(page.contains(&format!(".SH SETTINGS OF {capitals}\n")), "{name}");
            let meaning = format!(".TP\n\\fB{name}\\fR\n\\&{}\n", plugin.meaning);
            assert!(page.contains(&meaning), "{name}");
            for key in plugin.keys {
                assert!(page.contains(&format!("\\fB{}\\fR (", key.name)), "{name} {}", key.name);
            }
            let words = child["properties"]["plugin"]["enum"].as_array().expect("words");
            assert!(words.iter().any(|word| word == name), "{words:?}");
            let rules = child["allOf"].as_array().expect("rules");
            let rule = rules.iter().find(|rule| rule["if"]["properties"]["plugin"]["const"] == name).expect("a rule");
            let settings = &rule["then"]["properties"]["settings"]["properties"];
            assert!(plugin.keys.iter().all(|key| settings.get(key.name).is_some()), "{settings}");
            assert!(completed.iter().any(|candidate| candidate.get_value() == name), "{name}");
        }
    }

    #[test]
    fn a_folder_and_a_row_are_enough_to_be_run_and_described() {
        let meant = |words: &[&str]| Typed::try_parse_from(words).expect("right usage").meant();
        assert!(meant(&["plumbd", "plugin", "null"]).is_ok());
        assert!(meant(&["plumbd", "plugin", "null", "--describe"]).is_ok());
        let Err(wrong) = meant(&["plumbd", "plugin", "nil"]) else { panic!("there is no such plugin") };
        assert_eq!(wrong.to_string(), "plumbd: cannot run plugin \"nil\": there are echo, logger, null");
        let manifest = null().manifest();
        assert_eq!(manifest["keys"][0]["default"], "0s");
        assert_eq!(manifest["metrics"][0]["name"], "messages");
    }
}
