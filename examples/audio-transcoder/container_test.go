package main

import (
	"archive/tar"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/dockertest"
)

func TestMain(m *testing.M) { os.Exit(dockertest.Main(m)) }

func TestEndToEndInContainers(t *testing.T) {
	t.Parallel()
	engine := dockertest.Shared(t)
	makeWorkerImage(t, engine, "worker:1")
	st := newStage(t, gateway(t, engine), `
		[providers.docker]
		enabled = true
		host = "`+engine.Host+`"
		network = "`+engine.Network+`"
	`)
	env := []string{"DAYFLY_PROVIDER=docker", "FLY_WORKER_IMAGE=worker:1"}
	_, base := st.serve(t, "jobs.db", env...)
	t.Run("AWAVBecomesAnMP3", func(t *testing.T) {
		t.Parallel()
		id := upload(t, base, st.wav)
		start(t, base, id)
		checkMP3(t, await(t, base, id, "completed", ending))
		run := st.awaitRun(t, id, dayfly.Succeeded)
		if s := run.Spec; s.Provider != "docker" || s.Image != "worker:1" || s.Size != "shared-cpu-2x" {
			t.Errorf("got a run of %+v, want one in a container of worker:1 of the size that was asked for", s)
		}
	})
	t.Run("ASourceThatIsNoWAVFailsTheJob", func(t *testing.T) {
		t.Parallel()
		id := upload(t, base, []byte("no sound"))
		start(t, base, id)
		if why, _ := dig(await(t, base, id, "failed", ending), "error").(string); !strings.Contains(why, "The source cannot be transcoded: ") {
			t.Errorf("got error %q, want ffmpeg's reason", why)
		}
	})
	t.Run("AnImageWithAScriptOfItsOwnIsUsedAsItIs", func(t *testing.T) {
		t.Parallel()
		_, base := st.serve(t, "own.db", append(env, "WORKER_COMMAND=sh start.sh")...)
		id := upload(t, base, st.wav)
		start(t, base, id)
		checkMP3(t, await(t, base, id, "completed", ending))
	})
	t.Run("AContainerThatIsRemovedFailsTheJob", func(t *testing.T) {
		t.Parallel()
		id := upload(t, base, st.wav)
		arrived, release := st.gate.hold("/" + st.storage.Bucket + "/sources/" + id)
		defer release()
		start(t, base, id)
		receive(t, "the worker fetches the source", arrived)
		run, err := st.dayfly.Job(t.Context(), st.run(t, id))
		if err != nil || len(run.Attempts) != 1 {
			t.Fatalf("got run %+v, %v; want one attempt", run, err)
		}
		if _, err := engine.Client.ContainerRemove(t.Context(), run.Attempts[0].Machine.Name, client.ContainerRemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		if why, _ := dig(await(t, base, id, "failed", ending), "error").(string); !strings.Contains(why, "machine") {
			t.Errorf("got error %q, want it to say that the machine is gone", why)
		}
	})
}

// gateway returns the address of this computer that the engine's containers reach.
func gateway(t *testing.T, e *dockertest.Engine) string {
	t.Helper()
	answer, err := e.Client.NetworkInspect(t.Context(), e.Network, client.NetworkInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range answer.Network.IPAM.Config {
		if config.Gateway.IsValid() {
			return config.Gateway.String()
		}
	}
	t.Fatalf("the network %s has no address of this computer", e.Network)
	return ""
}

// makeWorkerImage makes what worker/Dockerfile describes, without a registry: this computer's tools with the libraries
// that they need, a busybox for the rest, and a careless worker's script as an image of somebody else's has it.
func makeWorkerImage(t *testing.T, e *dockertest.Engine, name string) {
	t.Helper()
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(writeWorkerImage(writer)) }()
	answer, err := e.Client.ImageImport(t.Context(), client.ImageImportSource{Source: reader, SourceName: "-"}, name,
		client.ImageImportOptions{Changes: []string{"ENV PATH=/bin:/usr/bin", "WORKDIR /app"}})
	if err != nil {
		t.Fatalf("making the image: %v", err)
	}
	defer answer.Close()
	if text, err := io.ReadAll(answer); err != nil || strings.Contains(string(text), "errorDetail") {
		t.Fatalf("making the image: %v, %s", err, text)
	}
}

func writeWorkerImage(to io.Writer) error {
	files := map[string]string{"/app/start.sh": "testdata/careless.sh"} // by their place in the image
	library := regexp.MustCompile(`(/\S+) \(0x`)
	for _, tool := range []string{"ffmpeg", "curl", "jq"} {
		program, err := exec.LookPath(tool)
		if err != nil {
			return err
		}
		libraries, err := exec.Command("ldd", program).Output()
		if err != nil {
			return err
		}
		files["/bin/"+tool] = program
		for _, m := range library.FindAllStringSubmatch(string(libraries), -1) {
			files[m[1]] = m[1]
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	files["/bin/busybox"] = busybox
	w := tar.NewWriter(to)
	for place, file := range files {
		if err := writeFile(w, place, file); err != nil {
			return err
		}
	}
	for _, applet := range []string{"sh", "mktemp", "rm", "cat", "wc", "sed", "tr", "cut"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}); err != nil {
			return err
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp", Mode: 0o1777}); err != nil {
		return err
	}
	return w.Close()
}

func writeFile(w *tar.Writer, place, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(place, "/"), Mode: 0o755, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
