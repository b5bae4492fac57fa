package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tree makes a source tree and a directory of programs, which all have the content given.
func tree(t *testing.T, program []byte) (root, bin string) {
	t.Helper()
	root, bin = t.TempDir(), t.TempDir()
	for _, name := range []string{"LICENSE", "README.md", "SECURITY.md", "deploy/config/b.conf", "deploy/config/a.conf", "deploy/systemd/x@.service", "docs/faq.md"} {
		write(t, filepath.Join(root, name), name, 0o600)
	}
	write(t, filepath.Join(root, "deploy/install.sh"), "#!/bin/sh\n", 0o700)
	for _, name := range programs {
		write(t, filepath.Join(bin, name), string(program), 0o755)
	}
	return root, bin
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// What could go wrong: an archive tells when, by whom or where it was made, so that two of the same commit differ; or a file is missing,
// or install.sh cannot be run. Two trees with the same content at different places and times give the same bytes.
func TestArchiveDependsOnContentOnly(t *testing.T) {
	t.Parallel()
	when := time.Unix(1_700_000_000, 0)
	var archives [2][]byte
	for i := range archives {
		root, bin := tree(t, []byte("a program"))
		later := time.Now().Add(time.Duration(i) * time.Hour)
		if err := os.Chtimes(filepath.Join(root, "LICENSE"), later, later); err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(t.TempDir(), "a.tar.gz")
		if err := pack(root, bin, target, "top", when); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(target)
		if err != nil {
			t.Fatal(err)
		}
		archives[i] = content
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of the same content differ")
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(archives[0]))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for reader := tar.NewReader(unzipped); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
		runs := header.Mode == 0o755
		if header.Uid != 0 || !header.ModTime.Equal(when) || runs != (header.Name == "top/install.sh" || !strings.Contains(header.Name, ".") && header.Name != "top/LICENSE") {
			t.Errorf("%s: %+v", header.Name, header)
		}
	}
	want := "top/LICENSE top/README.md top/SECURITY.md top/config/a.conf top/config/b.conf top/install.sh top/systemd/x@.service top/docs/faq.md " +
		"top/confmaster top/kvnode top/replicator top/smrctl"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("the archive holds\n%s\nwant\n%s", got, want)
	}
}

// What could go wrong: the bill of materials is not CycloneDX, or misses what was linked.
func TestBillNamesWhatWasLinked(t *testing.T) {
	t.Parallel()
	self, err := os.Executable() // says like every Go program what it was linked from
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	_, bin := tree(t, program)
	target := filepath.Join(t.TempDir(), "bill.json")
	if err := writeBill(bin, target, commit{hash: "abc", when: time.Unix(1_700_000_000, 0).UTC()}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	var b bill
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&b); err != nil {
		t.Fatal(err)
	}
	refs := map[string]bool{b.Metadata.Component.Ref: true}
	kinds := make(map[string]int)
	for _, c := range b.Components {
		if c.Name == "" || c.Version == "" || refs[c.Ref] {
			t.Errorf("component without name or version, or twice: %+v", c)
		}
		refs[c.Ref] = true
		kinds[c.Type]++
		if c.Type == "library" && !strings.HasPrefix(c.PURL, "pkg:golang/"+c.Name+"@") {
			t.Errorf("%s has the package URL %q", c.Name, c.PURL)
		}
	}
	for _, d := range b.Dependencies {
		for _, ref := range append(d.DependsOn, d.Ref) {
			if !refs[ref] {
				t.Errorf("there is no component %s", ref)
			}
		}
	}
	if b.Format != "CycloneDX" || b.SpecVersion != "1.5" || !strings.HasPrefix(b.SerialNumber, "urn:uuid:") || len(b.SerialNumber) != 45 ||
		b.Metadata.Timestamp != "2023-11-14T22:13:20Z" || kinds["application"] != len(programs) || kinds["library"] == 0 {
		t.Errorf("the bill says %s\n%v", content[:min(len(content), 800)], kinds)
	}
}
