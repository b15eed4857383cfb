//! Every real DBN file comes back from the tables as the file that it was.

use super::run::{Home, text};
use super::{expected, flags};
use std::path::Path;

/// Bytes of a `bbo-*` record that are reserved, and that Databento leaves as they were in the record it was made of: action, depth, ts_in_delta.
const RESERVED_OF_BBO: [usize; 6] = [28, 31, 40, 41, 42, 43];
const BBO_BYTES: usize = 80;
/// The one other file in which reserved bytes are not 0, and how many: between the fields of a definition of version 1.
const DEFINITION_V1: (&str, usize) = ("test_data.definition.v1.dbn.zst", 8);

#[test]
fn every_real_dbn_file_comes_back_byte_for_byte() {
    let Some(expected) = expected() else { return };
    let files: Vec<&String> = expected.files.iter().filter(|(_, facts)| facts["kind"] == "dbn").map(|(name, _)| name).collect();
    let path = |name: &String| expected.folder.join(name).to_str().expect("paths here are UTF-8").to_string();
    let home = Home::embedded();
    let plain: Vec<String> = files.iter().filter(|name| flags(name).is_empty()).map(|name| path(name)).collect();
    let all = home.ingest_all(&plain);
    let ids = files.iter().map(|name| match flags(name).as_slice() {
        [] => all.of(&path(name)).source_ids(),
        flags => home.ingest(&expected.folder.join(name), flags).source_ids(),
    });
    let ids: Vec<String> = ids.map(|mut ids| ids.remove(0)).collect();
    home.store();
    let folder = home.path("dbn");
    let output = home.run(&["replay", "--format", "dbn", "--to", &format!("{}/", folder.display())], "");
    assert!(output.status.success(), "{}", text(&output));
    let mut reserved = 0;
    for (name, id) in files.iter().zip(&ids) {
        let (file, replayed) =
            (unpacked(&expected.folder.join(name)), std::fs::read(folder.join(format!("{id}.dbn"))).expect("each has a file"));
        assert_eq!(file.len(), replayed.len(), "{name}");
        let differing: Vec<usize> = (0..file.len()).filter(|at| file[*at] != replayed[*at]).collect();
        let header = 8 + u32::from_le_bytes(file[4..8].try_into().expect("four bytes")) as usize;
        let is_bbo = expected
            .files
            .iter()
            .any(|(of, facts)| of == *name && facts["schema"].as_str().is_some_and(|schema| schema.starts_with("bbo-")));
        let is_reserved = |at: &usize| match is_bbo {
            true => *at >= header && RESERVED_OF_BBO.contains(&((at - header) % BBO_BYTES)),
            false => name.ends_with(DEFINITION_V1.0) && differing.len() == DEFINITION_V1.1,
        };
        // No column holds them: they come back as 0.
        assert!(differing.iter().all(|at| is_reserved(at) && replayed[*at] == 0), "{name} at {differing:?}");
        reserved += usize::from(!differing.is_empty());
    }
    println!("{} files, {} of them byte for byte", files.len(), files.len() - reserved);
    assert!(files.len() > 50 || std::env::var_os("TAPE_ONLY").is_some());
}

fn unpacked(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("it can be read");
    if path.extension().is_some_and(|extension| extension == "zst") { zstd::decode_all(&bytes[..]).expect("zstd") } else { bytes }
}
