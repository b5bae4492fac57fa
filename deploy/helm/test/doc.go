// Package test renders the Helm chart beside it with Helm's own engine and holds the result against the types of Kubernetes.
// It is a module of its own, because those are large and nothing else needs them. The rendered manifests in testdata are
// read by internal/deploy, which tries every argument of a container on the real programs.
package test
