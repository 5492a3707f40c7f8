//! What is found wrong again and again is said once.

/// A complaint that stands, by its words.
#[derive(Debug, Default)]
pub(super) struct Complaint(Option<String>);

impl Complaint {
    /// Takes the words of the moment; whether they are others than the last.
    pub(super) fn is_news(&mut self, words: &str) -> bool {
        let is_news = self.0.as_deref() != Some(words);
        if is_news {
            self.0 = Some(words.to_owned());
        }
        is_news
    }

    /// Nothing is wrong any more; whether something was.
    pub(super) fn settle(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_are_news_again_only_after_others_or_an_end() {
        let mut complaint = Complaint::default();
        assert!(!complaint.settle());
        let said: Vec<bool> = ["a", "a", "b", "b", "a"].map(|words| complaint.is_news(words)).into();
        assert_eq!(said, [true, false, true, false, true]);
        assert!(complaint.settle() && !complaint.settle());
        assert!(complaint.is_news("a"));
    }
}
