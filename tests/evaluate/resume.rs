//! Yardsticks of token methods go on where they were, to the same numbers.

use crate::cli::{Bench, lines};

/// Rows without the time they took.
fn rows(out: &str) -> Vec<serde_json::Value> {
    let mut rows = lines(out);
    for row in &mut rows {
        row["seconds"] = 0.into();
    }
    rows
}

#[test]
fn windows_that_are_known_are_not_explained_again() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    // Three windows of 64.
    bench.records("data.jsonl", 150);
    let gold: Vec<String> = (0..150).map(|i| format!("{{\"id\":\"r{i}\",\"rationales\":[[[0,3]]]}}")).collect();
    bench.write("gold.jsonl", gold.join("\n"));
    let data = std::fs::read_to_string(bench.path("data.jsonl")).unwrap();
    let perturbed = lines(&data).into_iter().map(|mut record| {
        record["original"] = record["id"].clone();
        record.to_string() + "\n"
    });
    bench.write("perturbed.jsonl", perturbed.collect::<String>());
    let start = "--model bert-cls2 --data data.jsonl --method saliency,random --quiet";
    let yardsticks = [
        ("faithfulness", "", "kept"),
        ("plausibility", "--gold gold.jsonl", "kept"),
        ("consistency", "--perturbed perturbed.jsonl", "kept.perturbed"),
    ];
    for (yardstick, more, file) in yardsticks {
        let command = format!("evaluate {yardstick} {start} {more}");
        let expected = rows(&bench.ok(&command));
        assert!(expected.iter().all(|row| row["yardstick"] == yardstick), "{expected:?}");
        assert_eq!(rows(&bench.ok(&format!("{command} --keep kept"))), expected);
        let whole = std::fs::read(bench.path(file)).unwrap();
        assert_eq!(whole.split(|&byte| byte == b'\n').count(), 5, "a header and three windows");
        for cut in [whole.len() - 9, whole.len() / 2, 3] {
            bench.write(file, &whole[..cut]);
            assert_eq!(rows(&bench.ok(&format!("{command} --keep kept"))), expected, "{yardstick} cut at byte {cut}");
        }
        bench.fails(&format!("{command} --keep kept --rationale 1"), "another model, data or options");
        bench.write("fewer.jsonl", data.lines().skip(1).collect::<Vec<_>>().join("\n"));
        if yardstick != "consistency" {
            bench.fails(&format!("{command} --keep kept").replace("data.jsonl", "fewer.jsonl"), "of other records");
        }
        std::fs::remove_file(bench.path(file)).unwrap();
    }
}

#[test]
fn a_folder_of_turned_labels_goes_on() {
    let bench = Bench::new();
    bench.model("bert-cls2");
    bench.records("data.jsonl", 40);
    let command = "evaluate label-noise --model bert-cls2 --data data.jsonl --projection-dim 32 --quiet";
    let expected = bench.ok(command);
    assert_eq!(bench.ok(&format!("{command} --keep folder")), expected);
    std::fs::remove_dir_all(bench.path("folder/whole")).unwrap();
    assert_eq!(bench.ok(&format!("{command} --keep folder")), expected);
    bench.fails(&format!("{command} --keep folder --share 0.3"), "folder");
}
