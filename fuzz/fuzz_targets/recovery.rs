#![no_main]

use libfuzzer_sys::fuzz_target;
use plumbd_fuzz::targets::recovery::target;

fuzz_target!(|bytes: &[u8]| target(bytes).unwrap());
