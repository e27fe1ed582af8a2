// Package curltranscode_test runs the example against a real server with a real ffmpeg.
package curltranscode_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/server"
)

func TestTheScriptTurnsAWAVIntoAnMP3(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url, _ := serve(t, dir)
	makeWAV(t, dir)
	out := transcode(t, dir, []string{"DAYFLY_URL=" + url}, "song.wav", "song.mp3", "128")
	for _, want := range []string{"codec_name=mp3", "bit_rate=128000", "channels=2", "duration=3."} {
		if !strings.Contains(out, want) {
			t.Errorf("got\n%s\nwant it to say %s", out, want)
		}
	}
}

func TestTheScriptSaysWhatWentWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url, _ := serve(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "noise.wav"), []byte("this is no sound"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := script(t, dir, []string{"DAYFLY_URL=" + url}, "noise.wav", "noise.mp3")
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "failed: ") {
		t.Errorf("got %v and\n%s\nwant a failure that says why", err, &stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "noise.mp3")); err == nil {
		t.Error("it left an MP3 all the same")
	}
}

func TestTheScriptUsesAToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url, token := serve(t, dir, "--require-token")
	makeWAV(t, dir)
	var stderr bytes.Buffer
	cmd := script(t, dir, []string{"DAYFLY_URL=" + url}, "song.wav", "song.mp3")
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "unauthenticated") {
		t.Errorf("without one: got %v and\n%s\nwant to be refused", err, &stderr)
	}
	out := transcode(t, dir, []string{"DAYFLY_URL=" + url, "DAYFLY_TOKEN=" + token}, "song.wav", "song.mp3")
	if !strings.Contains(out, "bit_rate=192000") {
		t.Errorf("with it: got\n%s\nwant an MP3 of 192 kbit/s", out)
	}
}

// serve runs a server with its data below dir and returns its URL and its owner's token.
func serve(t *testing.T, dir string, args ...string) (url, token string) {
	t.Helper()
	program := filepath.Join(dir, "dayfly")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "github.com/dayfly-run/dayfly/cmd/dayfly")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building dayfly: %v\n%s", err, out)
	}
	data := filepath.Join(dir, "data")
	var log bytes.Buffer
	cmd := exec.Command(program, append([]string{"serve", "--listen", "127.0.0.1:0", "--data-dir", data}, args...)...)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server ended with %v\n%s", err, &log)
		}
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-time.After(5 * time.Millisecond) {
		owner, err := server.FindOwner(data)
		if err != nil || owner.URL == "" {
			continue
		}
		c, err := dayfly.NewClient(owner.URL, &dayfly.ClientOptions{Token: owner.Token})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Version(t.Context()); err == nil {
			return owner.URL, owner.Token
		}
	}
	t.Fatal("the server is not up after 20s")
	return "", ""
}

// makeWAV makes three seconds of stereo sound.
func makeWAV(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "aevalsrc='0.3*sin(440*2*PI*t)|0.3*sin(660*2*PI*t)':s=44100:d=3", "song.wav")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("making a WAV: %v\n%s", err, out)
	}
}

func script(t *testing.T, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := filepath.Abs("transcode.sh")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

// transcode runs the script, which must succeed, and returns what it prints.
func transcode(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := script(t, dir, env, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	return string(out)
}
