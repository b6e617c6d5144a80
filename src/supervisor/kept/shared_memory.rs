//! The memory that the instances of one child share ([`crate::plugin::shared`]). The
//! instances hold its file, so it exists as long as a configuration has one of them, whether
//! that runs or not. A reload that adds instances gives them the file of the others.

use crate::config::model::{Child, Program};
use crate::plugin;
use crate::plugin::shared::Layout;
use crate::sys::map;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

/// One instance's part of it.
#[derive(Debug)]
pub struct Region {
    /// The file, which all instances share.
    pub file: Rc<OwnedFd>,
    /// The instance that it belongs to, from 0.
    pub instance: usize,
    layout: Layout,
}

impl Region {
    /// Fills it with zeros, because its instance has no process any more.
    ///
    /// # Errors
    /// From fallocate(2), but none is possible for a memory file with these seals.
    pub fn clear(&self) -> io::Result<()> {
        map::zero(&*self.file, self.layout.region_of(self.instance), self.layout.region())
    }
}

/// All such files. Each layout has a file of its own: if a reload changes the layout, all
/// instances are stopped before the first is started again.
#[derive(Debug, Default)]
pub struct SharedMemory {
    files: BTreeMap<(String, &'static str, Layout), Weak<OwnedFd>>,
}

impl SharedMemory {
    /// The part of that child, if it is one of several instances of a plugin that shares memory.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM; EFBIG if RLIMIT_FSIZE is below the length of the file.
    pub fn region(&mut self, child: &Child) -> io::Result<Option<Region>> {
        let (Program::Plugin(plugin), Some((name, instance))) = (&child.program, child.instance()) else {
            return Ok(None);
        };
        let bytes = plugin::find(plugin).map_or(0, |plugin| (plugin.shared)(&child.settings));
        if bytes == 0 {
            return Ok(None);
        }
        let layout = Layout::new(bytes);
        self.files.retain(|_, file| file.strong_count() > 0);
        let key = (name.to_owned(), *plugin, layout);
        let file = match self.files.get(&key).and_then(Weak::upgrade) {
            Some(file) => file,
            None => {
                let file = map::memory_file(c"plumbd-shared", layout.bytes())?;
                map::seal_size(&file)?;
                let file = Rc::new(file);
                self.files.insert(key, Rc::downgrade(&file));
                file
            }
        };
        Ok(Some(Region { file, instance, layout }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check_text;
    use crate::config::model::Model;
    use std::path::Path;

    fn model(instances: usize, settings: &str) -> Model {
        let text = format!(
            "[children.echo]\nplugin = \"echo\"\nlisten = [\"tcp://127.0.0.1:7007\"]\ninstances = {instances}\n\
             settings = {{ echo_after = \"queued\", {settings} }}\n\
             [children.sink]\ncommand = [\"cat\"]\n[[links]]\nfrom = \"echo\"\nto = \"sink\"\n"
        );
        check_text(text.as_bytes(), "test", Path::new("/")).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn regions(memory: &mut SharedMemory, model: &Model) -> Vec<Option<Region>> {
        model.children.iter().map(|child| memory.region(child).expect("a file")).collect()
    }

    #[test]
    fn only_instances_that_count_together_share() {
        for (instances, settings) in [(1, "max_connections_per_address = 2"), (3, "max_connections_per_address = 0")] {
            let mut memory = SharedMemory::default();
            assert!(regions(&mut memory, &model(instances, settings)).iter().all(Option::is_none));
            assert!(memory.files.is_empty());
        }
    }

    #[test]
    fn new_instances_get_the_file_of_those_that_stay() {
        let mut memory = SharedMemory::default();
        let two = regions(&mut memory, &model(2, "max_connections_per_address = 2"));
        let three = regions(&mut memory, &model(3, "max_connections_per_address = 2"));
        let all: Vec<&Region> = two.iter().chain(&three).flatten().collect();
        assert_eq!(all.iter().map(|region| region.instance).collect::<Vec<_>>(), [0, 1, 0, 1, 2]);
        assert!(all.iter().all(|region| Rc::ptr_eq(&region.file, &all[0].file)));
        // Longer regions are in another file, which disappears with its instances.
        let longer = "max_connections_per_address = 2, max_connections = 1000000";
        let others = regions(&mut memory, &model(2, longer));
        assert!(!Rc::ptr_eq(&others[0].as_ref().expect("a region").file, &all[0].file));
        drop(others);
        let again = regions(&mut memory, &model(2, "max_connections_per_address = 2"));
        assert!(Rc::ptr_eq(&again[0].as_ref().expect("a region").file, &all[0].file));
        assert_eq!(memory.files.len(), 1);
    }
}
