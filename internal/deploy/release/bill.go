package main

import (
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"lockstep/internal/release"
)

// bill is a bill of materials in CycloneDX 1.5 (JSON): what the programs of one architecture were linked from, as the programs
// themselves say it.
type bill struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	SerialNumber string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// writeBill describes the programs in bin.
func writeBill(bin, target string, head commit) error {
	b, err := billOf(bin, head)
	if err != nil {
		return err
	}
	content, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(target, append(content, '\n'), 0o644)
}

func billOf(bin string, head commit) (*bill, error) {
	whole := component{Type: "application", Ref: "lockstep@" + release.Version, Name: "lockstep", Version: release.Version,
		Properties: []property{{"vcs.revision", head.hash}}}
	b := &bill{Schema: "http://cyclonedx.org/schema/bom-1.5.schema.json", Format: "CycloneDX", SpecVersion: "1.5", Version: 1,
		Metadata: metadata{Timestamp: head.when.Format(time.RFC3339), Component: whole}}
	modules := make(map[string]component)
	all := sha256.New()
	inside := dependency{Ref: whole.Ref}
	for _, program := range programs {
		path := filepath.Join(bin, program)
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		all.Write(content)
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		ref := program + "@" + release.Version
		b.Components = append(b.Components, component{Type: "application", Ref: ref, Name: program, Version: release.Version,
			Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(content))}}})
		inside.DependsOn = append(inside.DependsOn, ref)
		linked := dependency{Ref: ref, DependsOn: []string{}}
		for _, m := range append(info.Deps, &debug.Module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")}) {
			c := moduleOf(m)
			modules[c.Ref] = c
			linked.DependsOn = append(linked.DependsOn, c.Ref)
		}
		slices.Sort(linked.DependsOn)
		b.Dependencies = append(b.Dependencies, linked)
	}
	b.Dependencies = append(b.Dependencies, inside)
	libraries := make([]component, 0, len(modules))
	for _, m := range modules {
		libraries = append(libraries, m)
	}
	slices.SortFunc(libraries, func(x, y component) int { return cmp.Compare(x.Ref, y.Ref) })
	b.Components = append(b.Components, libraries...)
	// A number that is the same for the same programs, in the form of a UUID (version 8).
	id := all.Sum(nil)[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	b.SerialNumber = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	return b, nil
}

// moduleOf describes a module that was linked; one that was replaced by its replacement.
func moduleOf(m *debug.Module) component {
	if m.Replace != nil {
		m = m.Replace
	}
	c := component{Type: "library", Name: m.Path, Version: m.Version, PURL: fmt.Sprintf("pkg:golang/%s@%s", m.Path, m.Version)}
	c.Ref = c.PURL
	if m.Sum != "" {
		c.Properties = []property{{"go.sum", m.Sum}}
	}
	return c
}
