// Package report is how a drill went, as it is kept in the history (report.json), shown to people and drawn (report.html): `smrctl drill`
// writes it, the web page reads it.
//
// It may not know: how it came about.
package report
