use super::*;

#[test]
fn what_others_wrote_stays_text() {
    let hostile = "<img src=x onerror='alert(1)'>&\"\u{202e}";
    assert_eq!(Escaped(hostile).to_string(), "&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&amp;&quot;\u{fffd}");
}
