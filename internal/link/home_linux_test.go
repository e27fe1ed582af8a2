package link_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
)

func TestAHomeWithoutADirectoryForTemporaryFilesSaysWhatToSet(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	_, err := link.NewHome(hello(), nil)
	if fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("NewHome: got %v of kind %v, want that TMPDIR is invalid, as trying again will not help", err, fault.Of(err))
	}
}

func TestWhatAHomeCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hello link.Hello
		o     link.HomeOptions
		want  fault.Kind
	}{
		"without a build":          {link.Hello{Program: "p"}, link.HomeOptions{}, fault.Invalid},
		"with a text that is long": {link.Hello{Build: strings.Repeat("b", 1025)}, link.HomeOptions{}, fault.TooLarge},
		"with too short a silence": {hello(), link.HomeOptions{Silence: time.Millisecond}, fault.Invalid},
		"with too long a silence":  {hello(), link.HomeOptions{Silence: 2 * time.Hour}, fault.Invalid},
		"nowhere":                  {hello(), link.HomeOptions{Listen: "192.0.2.1:0"}, fault.Unavailable},
		"in a file":                {hello(), link.HomeOptions{Dir: "/dev/null/home"}, fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.o.Dir == "" {
				c.o.Dir = filepath.Join(t.TempDir(), "home")
			}
			if _, err := link.NewHome(c.hello, &c.o); fault.Of(err) != c.want {
				t.Errorf("NewHome: got %v, want %s", err, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(c.o.Dir, "*.sock")); len(left) > 0 {
				t.Errorf("sockets of a home that is none: got %v, want none", left)
			}
		})
	}
}

func TestAHomeAdvertisesWhereItCanBeReached(t *testing.T) {
	t.Parallel()
	everywhere, i := expect(t, newHome(t, &link.HomeOptions{Listen: ":0"}), "r", "tcp:")
	for _, a := range i.Addresses {
		if strings.Contains(a, "0.0.0.0") || strings.Contains(a, "[::]") || strings.Contains(a, "fe80") {
			t.Errorf("an address of a home that listens on all: got %s, which leads nowhere from elsewhere", a)
		}
	}
	if len(i.Addresses) == 0 {
		t.Fatal("addresses of a home that listens on all: got none")
	}
	i.Addresses = i.Addresses[len(i.Addresses)-1:] // the loopback's, which works wherever this runs
	joins(t, everywhere, i)

	_, i = expect(t, newHome(t, &link.HomeOptions{Advertise: []string{"parent.example:7000"}}), "r", "tcp:")
	if len(i.Addresses) != 1 || i.Addresses[0] != "tcp:parent.example:7000" {
		t.Errorf("addresses: got %v, want those that are advertised", i.Addresses)
	}
}

func TestAHomeWithoutADirectoryMakesOneAndLeavesNone(t *testing.T) {
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	stale := filepath.Join(temporary, "dayfly-home-stale")
	if err := os.Mkdir(stale, 0o700); err != nil {
		t.Fatal(err)
	}
	killed, _ := start(t, -1, "parent", fmt.Sprint(stale, " ", never, " unix:"))
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = killed.Wait() // it was killed
	home, err := link.NewHome(hello(), nil)
	if err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(temporary, "dayfly-home-*"))
	if len(left) != 1 || left[0] == stale {
		t.Errorf("directories: got %v, want one, and not that of the killed home", left)
	}
	if info, err := os.Stat(left[0]); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its directory: got %v and %v, want one of mode 0700", info, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := home.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(temporary, "dayfly-home-*")); len(left) > 0 {
		t.Errorf("directories after the end: got %v, want none", left)
	}
}

func TestABuildIsThatOfTheExecutable(t *testing.T) {
	t.Parallel()
	this, err := link.ThisProcess()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(this.Build, "go:") || this.PID != os.Getpid() || this.Program == "" {
		t.Errorf("ThisProcess: got %+v, want this process with what Go's linker calls the build", this)
	}
	_, said := start(t, -1, "build", "")
	if said != this.Build {
		t.Errorf("the build of another process of this program: got %s, want %s", said, this.Build)
	}
}

func TestNoSocketOrProcessIsLeftToChildrenNorWhenLinksAreOver(t *testing.T) {
	t.Parallel()
	_, said := start(t, -1, "thrifty", t.TempDir()+"/home")
	if said != "" {
		t.Errorf("the process that made and closed links says: %s", said)
	}
}
