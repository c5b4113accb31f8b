//! Any bytes as an image archive that passes once: nothing panics.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use overlay2::image::{LayerSeen, LayerSink, ReadOptions, read_stream};
use overlay2::{DiffId, Digest};

struct Sink;

impl LayerSink for Sink {
    fn layer(&mut self, _: &str, reader: &mut dyn Read) -> overlay2::Result<LayerSeen> {
        let mut bytes = Vec::new();
        // An archive that ends early fails in its reader too.
        let _ = reader.read_to_end(&mut bytes);
        let digest = Digest::of(&bytes);
        Ok(LayerSeen { diff_id: DiffId::new(digest), digest, size: bytes.len() as u64 })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = read_stream(bytes, &mut Sink, &ReadOptions::default());
});
