// Package deploy holds deploy/ against the programs, so that neither can change without the other: units, settings,
// install script, images, compose file and chart are tried as far as the machine allows. What it cannot try, it names.
//
//	units      systemd-analyze judges them; their command lines start a cluster with the sample settings
//	install    runs in a root of its own
//	compose    every command line is given to the real program; with -tags docker and an engine it is brought up, and
//	           containers are killed and cut off, once without TLS and once with it
//	chart      rendered by the module deploy/helm/test; its command lines are tried here
//
// Package probe is the health check of the images, package release builds what is given out. Nothing imports this one.
package deploy
