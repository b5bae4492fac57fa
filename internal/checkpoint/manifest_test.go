package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstep/smr"
)

func sample() *Manifest {
	return &Manifest{
		Format: 1, Cluster: "c1", Group: "g", LSN: 12345, Stamp: 1_700_000_000_123,
		Created: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC), Base: []byte{1, 2, 3},
		Digest: strings.Repeat("0123456789abcdef", 2), Keys: 2, Rows: 3, Bytes: 7, Written: 4,
		Files: []File{{"000004.sst", 4, 0x9ae0daaf}, {"MANIFEST-000001", 3, 0x364b3fb7}},
	}
}

// What could go wrong: the drawing in doc.go lies, or a later version writes another format under the same number.
func TestManifestHasGoldenBytes(t *testing.T) {
	const golden = `{"format":1,"cluster":"c1","group":"g","lsn":12345,"stamp":1700000000123,"created":"2026-11-21T10:00:00Z","base":"AQID",` +
		`"digest":"0123456789abcdef0123456789abcdef","keys":2,"rows":3,"bytes":7,"written":4,"overlay":0,"files":[{"name":"000004.sst","size":4,` +
		`"crc32c":2598427311},{"name":"MANIFEST-000001","size":3,"crc32c":910901175}],"check":1538119435}` + "\n"
	encoded, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if string(encoded) != golden {
		t.Fatalf("got  %s\nwant %s", encoded, golden)
	}
	parsed, err := ParseManifest(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := parsed.Encode(); string(again) != string(encoded) {
		t.Fatalf("read and written again: %s", again)
	}
}

// What could go wrong: an image.json of which one byte was changed or lost passes for a whole one.
func TestManifestRefusesEveryFlipAndEveryTear(t *testing.T) {
	encoded, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range encoded {
		for bit := range 8 {
			flipped := append([]byte(nil), encoded...)
			flipped[i] ^= 1 << bit
			if _, err := ParseManifest(flipped); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("bit %d of byte %d flipped: %v\n%s", bit, i, err, flipped)
			}
		}
		if _, err := ParseManifest(encoded[:i]); !errors.Is(err, ErrDamaged) {
			t.Fatalf("torn at byte %d: %v", i, err)
		}
	}
}

// What could go wrong: a directory that holds something else is taken for an image, or a wrong image for a right one.
func TestImagesAreFoundAndVerified(t *testing.T) {
	images := t.TempDir()
	if found, err := List(filepath.Join(images, "none")); err != nil || len(found) != 0 {
		t.Fatalf("a directory that is not there: %v, %v", found, err)
	}
	write := func(name string, m *Manifest) string {
		dir := filepath.Join(images, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if m == nil {
			return dir
		}
		for name, text := range map[string]string{"000004.sst": "abcd", "MANIFEST-000001": "abc"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for i := range m.Files {
			_, m.Files[i].CRC32C, _ = checksum(vfs.Default, filepath.Join(dir, m.Files[i].Name))
		}
		encoded, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ManifestName), encoded, 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	at := func(lsn smr.LSN) *Manifest {
		m := sample()
		m.LSN = lsn
		return m
	}
	good := write(Name(100), at(100))
	write(Name(2000), at(2000))
	wrong := write(Name(300), at(301))
	empty := write(Name(400), nil)
	write("00000000000000000500.new", at(500))
	newer := at(600)
	newer.Format = 2
	write(Name(600), newer)

	found, err := List(images)
	if err != nil {
		t.Fatal(err)
	}
	var lsns []smr.LSN
	for _, image := range found {
		lsns = append(lsns, image.LSN)
		if (image.Manifest == nil) == (image.Err == nil) {
			t.Errorf("image %d: %v, %v", image.LSN, image.Manifest, image.Err)
		}
	}
	if len(lsns) != 5 || lsns[0] != 2000 || lsns[1] != 600 || lsns[4] != 100 {
		t.Errorf("found %v", lsns)
	}
	for dir, want := range map[string]error{wrong: ErrDamaged, empty: ErrNoImage, filepath.Join(images, Name(600)): ErrNewer} {
		if _, err := Verify(dir); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", dir, err, want)
		}
	}
	m, err := Verify(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Of("c1", "g"); err != nil {
		t.Error(err)
	}
	for _, other := range [][2]string{{"c2", "g"}, {"c1", "h"}} {
		if err := m.Of(other[0], other[1]); !errors.Is(err, ErrForeign) {
			t.Errorf("%v: %v", other, err)
		}
	}
	for _, text := range []string{"abcx", "abc", "abcde"} {
		if err := os.WriteFile(filepath.Join(good, "000004.sst"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(good); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := os.Remove(filepath.Join(good, "000004.sst")); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(good); !errors.Is(err, ErrDamaged) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestNamesOfImages(t *testing.T) {
	for _, lsn := range []smr.LSN{0, 1, 12345, 1<<64 - 1} {
		if got, ok := ParseName(Name(lsn)); !ok || got != lsn {
			t.Errorf("%d: %d, %v", lsn, got, ok)
		}
	}
	for _, name := range []string{"", "1", "0000000000000000000a", "99999999999999999999", "000000000000000000001"} {
		if _, ok := ParseName(name); ok {
			t.Errorf("%q is taken for the name of an image", name)
		}
	}
}
