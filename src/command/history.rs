//! `meshcert history`: the renewals of a mesh, with the journal of the newest.

use crate::app::{Sources, process};
use crate::cli::{HistoryArgs, MeshArgs, Outcome};
use crate::command::print;
use crate::command::progress::tone;
use crate::command::renewal::find;
use crate::command::table;
use crate::renewal::Renewal;

/// Lists a mesh's renewals, oldest first.
///
/// # Errors
/// The mesh is not there.
pub fn run(args: HistoryArgs) -> anyhow::Result<Outcome> {
    let HistoryArgs { mesh: MeshArgs { mesh, connect }, output } = args;
    process::run(async {
        let found = find(&Sources::from(connect), &mesh).await?;
        let renewals = found.renewals().await?;
        let answer: Vec<_> = renewals
            .iter()
            .map(|one| serde_json::json!({ "name": one.name, "created": one.created, "spec": one.spec, "status": one.status }))
            .collect();
        print(&answer, output, || show(&mesh, &renewals))?;
        Ok(Outcome::Fine)
    })
}

fn show(mesh: &str, renewals: &[Renewal]) -> String {
    let Some(newest) = renewals.last() else { return format!("{mesh} was never renewed by meshcert\n") };
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
