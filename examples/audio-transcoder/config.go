package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// config is what the environment says. Names that the original had mean what they meant there.
type config struct {
	listen   string
	apiURL   string // by which workers reach this service; "": where it listens
	apiToken string
	database string

	accessKey, secretKey     string
	bucket, endpoint, region string

	dayflyURL, dayflyToken string
	provider, queue, image string
	command                []string

	attempts int
	timeout  time.Duration
	largest  int64
}

// readConfig reads the configuration. Its error says everything that is wrong with it, a line for each.
func readConfig(getenv func(string) string) (*config, error) {
	var wrong []string
	required := func(name string) string {
		value := getenv(name)
		if value == "" {
			wrong = append(wrong, name+" is not set")
		}
		return value
	}
	or := func(name, otherwise string) string {
		if value := getenv(name); value != "" {
			return value
		}
		return otherwise
	}
	number := func(name string, otherwise int64) int64 {
		n, err := strconv.ParseInt(or(name, fmt.Sprint(otherwise)), 10, 64)
		if err != nil || n < 1 {
			wrong = append(wrong, name+" is not a number above 0")
		}
		return n
	}
	c := &config{
		listen:    or("LISTEN", "127.0.0.1:8080"),
		apiToken:  getenv("API_TOKEN"),
		database:  strings.TrimPrefix(or("DB_URL", "audio-transcoder.db"), "sqlite:"),
		accessKey: required("AWS_ACCESS_KEY_ID"), secretKey: required("AWS_SECRET_ACCESS_KEY"),
		bucket: required("S3_BUCKET_NAME"), endpoint: required("S3_ENDPOINT_URL"), region: or("AWS_REGION", "us-east-1"),
		dayflyURL: or("DAYFLY_URL", "http://127.0.0.1:7700"), dayflyToken: getenv("DAYFLY_TOKEN"),
		provider: getenv("DAYFLY_PROVIDER"), queue: getenv("DAYFLY_QUEUE"), image: getenv("FLY_WORKER_IMAGE"),
		command:  strings.Fields(getenv("WORKER_COMMAND")),
		attempts: int(number("MAX_ATTEMPTS", 3)),
		largest:  number("MAX_SOURCE_BYTES", 1<<30),
	}
	c.apiURL = getenv("WORKER_API_URL")
	switch app := getenv("FLY_APP_NAME"); {
	case c.apiURL != "":
	case app != "":
		c.apiURL = "http://" + app + ".flycast"
	case !isOneAddress(c.listen):
		wrong = append(wrong, "WORKER_API_URL is not set, and LISTEN does not say by which address workers reach this service")
	}
	var err error
	if c.timeout, err = time.ParseDuration(or("JOB_TIMEOUT", "1h")); err != nil || c.timeout <= 0 {
		wrong = append(wrong, `JOB_TIMEOUT is not a length of time, such as "90s" or "1h"`)
	}
	if len(c.command) == 0 {
		c.command = nil
	}
	if strings.Contains(c.database, "://") {
		wrong = append(wrong, "DB_URL is not the path of a file; jobs are kept in SQLite")
	}
	if c.apiToken == "" && getenv("ALLOW_OPEN") != "true" && !onlyHere(c.listen) {
		wrong = append(wrong, "LISTEN is an address that others can reach: set API_TOKEN, or ALLOW_OPEN=true to let everybody in")
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return nil, fault.Say(fault.Invalid, "the environment is not as it should be:\n  %s", strings.Join(wrong, "\n  "))
	}
	return c, nil
}

// isOneAddress reports whether an address to listen on is also one to connect to.
func isOneAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip, none := netip.ParseAddr(host)
	return err == nil && host != "" && (none != nil || !ip.IsUnspecified())
}

// onlyHere reports whether an address can be reached from this computer alone.
func onlyHere(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
