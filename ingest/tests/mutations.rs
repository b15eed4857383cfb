//! Every parser on broken input: seeded mutations of good files never panic, never give more than there was, and give the same twice.
//!
//! `TAPE_FUZZ_SECONDS=60` gives each parser that long, `TAPE_SEED=N` replays a run.

use ingest::source::{Chunk, End, Format, Given, HEAD_BYTES};
use ingest::{sources, synthetic, unpack};
use schemas::Rows;
use std::io::{Cursor, Read};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

/// All parsers together take about fifteen seconds on two cores.
const SECONDS_EACH: f64 = 2.5;
/// Beginnings of large files are enough, and keep an input at milliseconds.
const SEED_BYTES_MAX: usize = 8 << 10;
/// Records of a chunk: as ingest asks for them, and few, so that an input has many chunks.
const CHUNK_RECORDS: [usize; 3] = [65_536, 65_536, 17];
/// Every so many inputs the rows are encoded too.
const ENCODE_EVERY: u64 = 4;
/// Values of a nested page, columns of a long row: one record may be some rows of several families, never without a bound.
const ROWS_PER_BYTE_MAX: usize = 2;
/// What a broken parser would do for ever.
const CHUNKS_MAX: usize = 1 << 20;

/// A good file.
struct Seed {
    given: Given,
    content: Vec<u8>,
}

#[test]
fn mutated_input_never_panics_and_is_accounted_for() {
    let seconds = std::env::var("TAPE_FUZZ_SECONDS").map_or(SECONDS_EACH, |text| text.parse().expect("TAPE_FUZZ_SECONDS is a number"));
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    let seed = std::env::var("TAPE_SEED").map_or_else(|_| clock(), |text| text.parse().expect("TAPE_SEED is a number"));
    println!("TAPE_SEED={seed}");
    let seeds = seeds();
    let formats = Mutex::new(sources::all());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(format) = { formats.lock().expect("nobody panics while choosing").pop() } {
                    fuzz(&format, &seeds, seed, Duration::from_secs_f64(seconds));
                }
            });
        }
    });
}

fn fuzz(format: &Format, seeds: &[Seed], seed: u64, time: Duration) {
    let own: Vec<&Seed> = seeds.iter().filter(|s| reader(s).parser == format.parser).collect();
    assert!(!own.is_empty(), "{} has no seed", format.parser);
    for seed in &own {
        let told = read(format, &seed.given, &seed.content, 0);
        assert!(told.error.is_none() && told.bad == 0, "{}: a seed is without fault: {told:?}", seed.given.label());
    }
    let began = Instant::now();
    let mut random = Random(format.parser.bytes().fold(seed, |state, byte| Random(state ^ u64::from(byte)).next()));
    let (mut runs, mut good, mut bad) = (0u64, 0, 0);
    while began.elapsed() < time {
        let of = own[random.below(own.len())];
        let other = &seeds[random.below(seeds.len())];
        let content = mutated(&of.content, &other.content, &mut random);
        let mut given = of.given.clone();
        given.growing = random.below(8) == 0;
        let told = checked(format, &given, &content, seed, runs);
        if runs.is_multiple_of(8) {
            assert_eq!(
                told,
                checked(format, &given, &content, seed, runs),
                "the same input gives the same: {} run {runs}, TAPE_SEED={seed}",
                format.parser
            );
        }
        good += told.rows;
        bad += told.bad;
        runs += 1;
    }
    println!("{:<20} {runs} inputs, {good} rows, {bad} bad records", format.parser);
}

/// Reads one input, and says which it was when the parser panics or breaks a promise.
fn checked(format: &Format, given: &Given, content: &[u8], seed: u64, run: u64) -> Told {
    let outcome = std::panic::catch_unwind(|| read(format, given, content, run));
    outcome.unwrap_or_else(|_| {
        let path = std::env::temp_dir().join(format!("tape-mutation-{}-{run}", format.parser.replace('/', "-")));
        std::fs::write(&path, content).expect("the temporary folder can be written");
        panic!("{} run {run} of TAPE_SEED={seed}: the input is in {}", format.parser, path.display())
    })
}

/// What came of an input.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    rows: usize,
    bad: usize,
    records: i64,
    bytes: u64,
    end: Option<String>,
    error: Option<String>,
    /// Of each bad record where it is and why.
    reasons: Vec<(i64, i64, String)>,
}

fn read(format: &Format, given: &Given, content: &[u8], run: u64) -> Told {
    let chunk_records = CHUNK_RECORDS[(run % 3) as usize];
    let mut told = Told { rows: 0, bad: 0, records: 0, bytes: 0, end: None, error: None, reasons: vec![] };
    let mut parser = match (format.open)(Box::new(Cursor::new(content.to_vec())), given) {
        Ok(parser) => parser,
        Err(why) => return Told { error: Some(said(&why.to_string(), given)), ..told },
    };
    for _ in 0..CHUNKS_MAX {
        let chunk = match parser.next(chunk_records) {
            Ok(chunk) => chunk,
            Err(why) => return Told { error: Some(said(&why.to_string(), given)), ..told },
        };
        account(&mut told, &chunk, content);
        let dataset = parser.dataset();
        assert!((1..=15).contains(&dataset.chars().count()), "dataset {dataset:?}");
        chunk.rows.into_iter().for_each(|rows| complete(rows, run.is_multiple_of(ENCODE_EVERY)));
        match chunk.end {
            End::More => {}
            End::Finished | End::OpenQuote => return Told { end: Some("finished".into()), ..told },
            End::CutShort(why) | End::Unlike(why) => return Told { end: Some(why), ..told },
        }
    }
    panic!("no end after {CHUNKS_MAX} chunks");
}

/// An error names its file.
fn said(why: &str, given: &Given) -> String {
    assert!(why.contains(&given.name), "{why:?} does not name {}", given.name);
    why.to_string()
}

/// What a chunk says of itself fits the one before and the input.
fn account(told: &mut Told, chunk: &Chunk, content: &[u8]) {
    let before = told.records;
    assert!(chunk.records >= before && chunk.bytes >= told.bytes, "records and bytes only grow");
    assert!(chunk.bytes <= content.len() as u64, "{} of {} bytes were consumed", chunk.bytes, content.len());
    assert!(
        chunk.bad.len() as i64 <= (chunk.records - before).max(1) * 64,
        "{} bad records of {}",
        chunk.bad.len(),
        chunk.records - before
    );
    for bad in &chunk.bad {
        assert!((before..chunk.records).contains(&bad.record), "bad record {} is none of {before}..{}", bad.record, chunk.records);
        assert!(bad.byte >= 0 && bad.byte as usize <= content.len(), "byte {} of {}", bad.byte, content.len());
        assert!(bad.raw.len() <= content.len() * 4 + 64, "{} bytes are put aside of {}", bad.raw.len(), content.len());
        assert!(!bad.reason.is_empty());
        told.reasons.push((bad.record, bad.byte, bad.reason.clone()));
    }
    told.records = chunk.records;
    told.bytes = chunk.bytes;
    told.bad += chunk.bad.len();
    told.rows += chunk.rows.iter().map(Rows::len).sum::<usize>();
    assert!(told.rows <= (content.len() + 64) * ROWS_PER_BYTE_MAX, "{} rows of {} bytes", told.rows, content.len());
}

/// Rows are whole: with what ingest adds they are a batch.
fn complete(mut rows: Rows, encode: bool) {
    rows.default_bytes(rows.topic().column("source_id"), &[7; 16]);
    rows.default_text(rows.topic().column("change"), "new");
    rows.default_i32(rows.topic().column("revision"), 0);
    let family = rows.family();
    let batch = rows.finish().expect("rows of a parser are valid");
    if !encode {
        return;
    }
    schemas::frame::encode(family, &batch).expect("every row of a parser can be published");
}

/// One to six changes: bits, bytes, numbers, lines, blocks; now and then a piece of another file, or an end in the middle.
fn mutated(content: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    const ODD: &[&str] = &[
        "",
        "-",
        "0",
        "-0",
        "1e999",
        "1e-999",
        "NaN",
        "inf",
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "null",
        "\"",
        "\"\"",
        "{",
        "]",
        ",",
        ",,",
        "\r\n",
        "\n\n",
        "\0",
        "\u{feff}",
        "\u{fffd}",
        "\u{1d}\u{85}",
        "9999-12-31T23:59:60Z",
        "0000-00-00",
        "1e38",
        "\\u0000",
        "\\ud800",
        "true",
        "[[[[[[[[",
        "0.0000000000000000001",
        "99999999999999999999999999999999999999999",
    ];
    let mut bytes = content.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let to = (at + random.below(64)).min(bytes.len());
        match random.below(12) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = random.next() as u8,
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..to)),
            5 => {
                let block = bytes[at..to].to_vec();
                drop(bytes.splice(at..at, block));
            }
            6 => {
                let from = random.below(other.len() + 1);
                let piece = other[from..(from + random.below(256)).min(other.len())].to_vec();
                drop(bytes.splice(at..to, piece));
            }
            7 | 8 => drop(bytes.splice(at..at, ODD[random.below(ODD.len())].bytes())),
            9 => replace_number(&mut bytes, at, ODD[random.below(ODD.len())].as_bytes()),
            10 if at + 8 <= bytes.len() => {
                bytes[at..at + 8].copy_from_slice(&[0, 1, i64::MAX as u64, u64::MAX, 1 << 63][random.below(5)].to_le_bytes())
            }
            _ => swap_lines(&mut bytes, at, random),
        }
    }
    bytes
}

/// The digits at or after `at` become something else.
fn replace_number(bytes: &mut Vec<u8>, at: usize, with: &[u8]) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|skip| at + skip) else { return };
    let end = bytes[start..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |len| start + len);
    drop(bytes.splice(start..end, with.iter().copied()));
}

/// The line at `at` moves elsewhere.
fn swap_lines(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let start = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
    let end = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |len| at + len + 1);
    let line: Vec<u8> = bytes.drain(start..end).collect();
    let to = random.below(bytes.len() + 1);
    drop(bytes.splice(to..to, line));
}

fn reader(seed: &Seed) -> Format {
    let head = &seed.content[..seed.content.len().min(HEAD_BYTES)];
    sources::all().into_iter().find(|format| (format.recognise)(head, &seed.given)).expect("the last format takes everything")
}

/// Good files of every parser: the sample feeds, and small pages of the formats that they do not have.
fn seeds() -> Vec<Seed> {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut seeds = Vec::new();
    for feed in synthetic::write(dir.path(), 1).expect("written") {
        let name = feed.path.file_name().expect("a file").to_string_lossy().into_owned();
        let given = Given { name, dataset: feed.dataset.map(String::from), ..Given::default() };
        for input in unpack::inputs(&feed.path, &given).expect("opens") {
            let input = input.expect("it can be read");
            let mut content = Vec::new();
            input
                .hold(&AtomicBool::new(false))
                .expect("opens")
                .expect("nobody says stop")
                .open()
                .expect("opens")
                .read_to_end(&mut content)
                .expect("reads");
            cut_at_record(&mut content);
            seeds.push(Seed { given: input.given, content });
        }
    }
    for (name, dataset, text) in PAGES {
        seeds.push(Seed {
            given: Given {
                name: (*name).into(),
                dataset: dataset.map(String::from),
                captured_ms: Some(1_790_000_000_000),
                ..Given::default()
            },
            content: text.as_bytes().to_vec(),
        });
    }
    seeds
}

/// A long text ends after a line, a long DBN file after a record; a JSON page is short.
fn cut_at_record(content: &mut Vec<u8>) {
    if content.len() <= SEED_BYTES_MAX {
        return;
    }
    if !content.starts_with(b"DBN") {
        let end = content[..SEED_BYTES_MAX].iter().rposition(|b| *b == b'\n').expect("lines are shorter");
        return content.truncate(end + 1);
    }
    let mut at = 8 + u32::from_le_bytes(content[4..8].try_into().expect("four bytes")) as usize;
    while at < SEED_BYTES_MAX {
        at += usize::from(content[at]) * 4;
    }
    content.truncate(at);
}

/// Name, dataset, content.
const PAGES: &[(&str, Option<&str>, &str)] = &[
    (
        "openai.json",
        None,
        r#"{"object":"page","data":[{"object":"bucket","start_time":1756684800,"end_time":1756771200,"results":[{"object":"organization.usage.completions.result","input_tokens":1000,"output_tokens":500,"input_cached_tokens":800,"input_audio_tokens":0,"output_audio_tokens":0,"num_model_requests":5,"project_id":"p","user_id":null,"api_key_id":null,"model":"gpt-5-mini","batch":false,"service_tier":null}]}],"has_more":false,"next_page":null}"#,
    ),
    (
        "anthropic.json",
        None,
        r#"{"data":[{"starting_at":"2026-08-01T00:00:00Z","ending_at":"2026-08-02T00:00:00Z","results":[{"uncached_input_tokens":1500,"cache_creation":{"ephemeral_1h_input_tokens":1000,"ephemeral_5m_input_tokens":500},"cache_read_input_tokens":200,"output_tokens":500,"server_tool_use":{"web_search_requests":10},"api_key_id":null,"workspace_id":"w","model":"claude-sonnet-4","service_tier":"standard","context_window":"0-200k"}]}],"has_more":false,"next_page":null}"#,
    ),
    (
        "models.json",
        None,
        r#"{"data":[{"id":"a/b","name":"B","context_length":1000,"pricing":{"prompt":"0.000003","completion":"0.000015","request":"0","image":"0","input_cache_read":"0.0000003"}},{"id":"c/d","pricing":{"prompt":"0","completion":"0"}}]}"#,
    ),
    (
        "mooncake.jsonl",
        None,
        "{\"timestamp\":0,\"input_length\":6758,\"output_length\":500,\"hash_ids\":[0,1,2]}\n{\"timestamp\":27482,\"input_length\":10,\"output_length\":3,\"hash_ids\":[]}\n",
    ),
    (
        "azure.csv",
        None,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    ),
    (
        "trades.csv",
        Some("T.DATA"),
        "symbol,ts_event,price,size\nA,2026-10-05T14:30:00Z,2.81,7\n\"B\n1\",2026-10-05T14:30:01.5Z,-0.000000001,9223372036854775807\n",
    ),
    (
        "tmp/ru1901/20180918-min1.csv",
        None,
        "Index,BeginTime,BeginVolume,BeginAmount,BeginOpenInt,EndTime,EndVolume,EndAmount,EndOpenInt,Open,High,Close,Low,Volume,Amount,Avg,MktAvg\n0,2018-09-17 21:00:00,0,0,480000,2018-09-17 21:01:00,2404,297158220,480100,12360,12375,12360,12350,2404,297158220,12361,12361.5\n1,2018-09-17 21:01:00,2404,297158220,480100,2018-09-17 21:02:00,3000,370000000,480200,12360,12375,12365,12350,596,72841780,12362,N/A\n",
    ),
    (
        "ru1901/day.csv",
        None,
        "Date,Open,High,Low,Close,Volume,Amount,BeginOpenInt,EndOpenInt,Subscription Price Factor\n20180917,12360,12375,12350,12360,2404,297158220,480000,480100,1\n20180918,12360,12375,12350,12365,596,72841780,480100,480200,N/A\n",
    ),
    ("page.html", None, "<html><body>2026: 140 trillion tokens</body></html>\n"),
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
