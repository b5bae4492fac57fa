// Package tidy holds the house rules as tests: DESIGN.md section 9 (which package may import which) and STYLE.md
// (purity, names, length of files). It has no code of its own, and nothing imports it.
//
// The rules read source files; of pure packages they also read types, to find out what is a map. The fixtures in
// testdata/rules break every rule on purpose, and a test shows that each breach is found: a check that cannot fail is
// none.
package tidy
