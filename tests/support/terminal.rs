//! A pseudo terminal: a program believes that a person looks at what it prints.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "only tests use it")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A program on a terminal of its own.
pub struct OnTerminal {
    pub child: Child,
    screen: File,
}

impl OnTerminal {
    /// On one that is 120 columns wide.
    pub fn start(command: &mut Command) -> Self {
        Self::with_columns(120, command)
    }

    pub fn with_columns(columns: u16, command: &mut Command) -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let side =
            || OpenOptions::new().read(true).write(true).open(std::ffi::OsStr::from_bytes(name.as_bytes())).unwrap();
        let child = command.stdin(side()).stdout(side()).stderr(side()).env("TERM", "xterm-256color").spawn().unwrap();
        // The command keeps its sides of the terminal open until it is given up.
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        Self { child, screen: File::from(master) }
    }

    /// Reads what comes until it holds `text`, or the program has ended.
    pub fn read_until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(text) {
            match self.screen.read(&mut buffer) {
                // Linux says EIO when the other side is closed.
                Ok(0) | Err(_) => break,
                Ok(length) => seen.extend_from_slice(&buffer[..length]),
            }
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Types it.
    pub fn write(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    /// Everything that the program prints, and its exit code.
    pub fn finish(mut self) -> (String, Option<i32>) {
        let mut seen = Vec::new();
        // The error that ends it is the end of the program.
        let _ = self.screen.read_to_end(&mut seen);
        (String::from_utf8_lossy(&seen).replace("\r\n", "\n"), self.child.wait().unwrap().code())
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
