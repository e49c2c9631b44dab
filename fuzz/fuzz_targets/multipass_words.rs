#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| golem_vm_fuzz::run("multipass_words", input));
