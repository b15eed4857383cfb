//! Results go to standard output; a reader that has seen enough and closed it is no fault.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};

/// Like `print!`, but a closed pipe is ignored: what was asked for is done all the same.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::text(format_args!($($text)*)) };
}

/// Like `println!`, but a closed pipe is ignored.
macro_rules! say_line {
    () => { $crate::say::text(format_args!("\n")) };
    ($($text:tt)*) => { $crate::say::text(format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) use {say, say_line};

/// Writes to standard output. An output that cannot be written for another reason than a closed pipe (a full disk) ends the process as a fault.
pub fn text(text: Arguments) {
    let mut out = stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(why) if why.kind() != ErrorKind::BrokenPipe => {
            eprintln!("tape: writing the answer: {why}");
            std::process::exit(crate::commands::Code::Fault as i32);
        }
        _ => {}
    }
}
