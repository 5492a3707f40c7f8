//! Certificates embedded in kubeconfigs.
