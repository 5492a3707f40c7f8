//! `meshcert history`: the renewals of a mesh, with the journal of the newest.

use std::io::{self, Write};

use crate::app::{Sources, process};
use crate::cli::{HistoryArgs, MeshArgs, Outcome};
use crate::command::progress::tone;
use crate::command::renewal::find;
use crate::command::{print, printable, table};
use crate::renewal::Renewal;

/// Lists a mesh's renewals, oldest first. Those that cannot be read, and may be among them, are said on standard error.
///
/// # Errors
/// The mesh is not there.
pub fn run(args: HistoryArgs) -> anyhow::Result<Outcome> {
    let HistoryArgs { mesh: MeshArgs { mesh, connect }, output } = args;
    process::run(async {
        let found = find(&Sources::from(connect), &mesh).await?;
        let (renewals, unreadable) = found.renewals_and_unreadable().await?;
        for one in &unreadable {
            let why = printable(one.to_string());
            writeln!(
                io::stderr(),
                "meshcert: a renewal cannot be read, and may be one of {mesh}: {why}; the runbook MeshcertNotActing says what to do"
            )?;
        }
        let answer: Vec<_> = renewals
            .iter()
            .map(|one| serde_json::json!({ "name": one.name, "created": one.created, "spec": one.spec, "status": one.status }))
            .collect();
        print(&answer, output, || match renewals.last() {
            Some(newest) => show(&renewals, newest),
            None if unreadable.is_empty() => format!("{mesh} was never renewed by meshcert\n"),
            None => format!("no renewal of {mesh} can be read\n"),
        })?;
        Ok(Outcome::Fine)
    })
}

fn show(renewals: &[Renewal], newest: &Renewal) -> String {
    let moment = |moment: Option<crate::time::UnixTime>| moment.map(|moment| moment.to_string()).unwrap_or_default();
    let rows = renewals.iter().map(|one| {
        let status = &one.status;
        [
            one.name.clone().into(),
            moment(one.created).into(),
            tone(status.phase).cell(status.phase.as_str()),
            status.attempt.to_string().into(),
            status.message.clone().into(),
        ]
    });
    let steps = newest.status.steps.iter().map(|step| {
        let attempt = step.attempt.to_string();
        [
            step.name.as_str().to_owned(),
            attempt,
            step.started_at.to_string(),
            moment(step.finished_at),
            step.result.clone(),
        ]
    });
    format!(
        "{}\n{}:\n{}",
        table(["RENEWAL", "CREATED", "PHASE", "ATTEMPT", "MESSAGE"], rows),
        newest.name,
        table(["STEP", "ATTEMPT", "STARTED", "FINISHED", "RESULT"], steps)
    )
}
