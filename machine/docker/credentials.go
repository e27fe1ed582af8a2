package docker

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// maxCredentials bounds a file of credentials, and what a helper answers, in bytes.
const maxCredentials = 1 << 20

// hub is how docker login calls the registry of images that name none.
const hub = "https://index.docker.io/v1/"

// ReadCredentials returns what a file that docker login has written has for a registry, or nil if it has nothing. Helpers
// that the file names are asked: programs called docker-credential-NAME. A file that does not exist has nothing. The error
// is fault.Invalid and repeats nothing that is in the file.
func ReadCredentials(ctx context.Context, file, registry string) (*Credentials, error) {
	text, err := readBounded(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Say(fault.Invalid, "the registries' credentials in %s cannot be read: %s", file, plain(err))
	}
	var config struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			IdentityToken string `json:"identitytoken"`
		} `json:"auths"`
		CredsStore  string            `json:"credsStore"`
		CredHelpers map[string]string `json:"credHelpers"`
	}
	if json.Unmarshal(text, &config) != nil {
		return nil, fault.Say(fault.Invalid, "%s is not a file of registries' credentials as docker login writes it", file)
	}
	names := []string{registry, "https://" + registry, "https://" + registry + "/v1/", "https://" + registry + "/v2/"}
	if registry == "docker.io" {
		names = append([]string{hub}, names...)
	}
	for _, name := range names {
		if helper := config.CredHelpers[name]; helper != "" {
			return askHelper(ctx, helper, name)
		}
	}
	for _, name := range names {
		entry, ok := config.Auths[name]
		if !ok || entry.Auth == "" && entry.IdentityToken == "" {
			continue
		}
		pair, err := base64.StdEncoding.DecodeString(entry.Auth)
		user, password, _ := strings.Cut(string(pair), ":")
		if err != nil {
			return nil, fault.Say(fault.Invalid, "the entry for %s in %s is not what docker login writes", name, file)
		}
		return &Credentials{User: user, Password: strings.TrimRight(password, "\x00"), IdentityToken: entry.IdentityToken}, nil
	}
	if config.CredsStore != "" {
		return askHelper(ctx, config.CredsStore, names[0])
	}
	return nil, nil
}

func readBounded(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCredentials))
}

// askHelper asks a program for what it keeps about a registry; nil if it keeps nothing.
func askHelper(ctx context.Context, helper, registry string) (*Credentials, error) {
	if strings.ContainsAny(helper, "/\\") {
		return nil, fault.Say(fault.Invalid, "%q is not the name of a helper for registries' credentials", helper)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	program := "docker-credential-" + helper
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(registry)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		if strings.Contains(out.String(), "credentials not found") {
			return nil, nil
		}
		return nil, fault.Say(fault.Invalid, "%s, which keeps registries' credentials, failed: %s", program, plain(err))
	}
	var answer struct{ Username, Secret string }
	if out.Len() > maxCredentials || json.Unmarshal(out.Bytes(), &answer) != nil {
		return nil, fault.Say(fault.Invalid, "%s, which keeps registries' credentials, answered something that makes no sense", program)
	}
	if answer.Username == "<token>" {
		return &Credentials{IdentityToken: answer.Secret}, nil
	}
	return &Credentials{User: answer.Username, Password: answer.Secret}, nil
}
