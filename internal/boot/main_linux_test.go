package boot_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/internal/boot"
)

// roleVariable says what this test binary is in a machine.
const roleVariable = "BOOT_TEST_ROLE"

// TestMain lets the test binary be its own helper and its own runner, as a user's program is.
func TestMain(m *testing.M) {
	if status, helped := boot.Help(os.Args); helped {
		os.Exit(status)
	}
	if role, ok := roles()[os.Getenv(roleVariable)]; ok {
		os.Exit(role(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func roles() map[string]func(args []string) int {
	return map[string]func(args []string) int{
		"local": func([]string) int {
			p, err := boot.LocalIn([]string{os.Getenv("PLACE")}, nil)
			if err == nil {
				err = p.Close()
			}
			if err != nil {
				fmt.Println(err)
				return 1
			}
			return 0
		},
		"say": func(args []string) int {
			fmt.Println(strings.Join(args, "|"))
			code, err := strconv.Atoi(os.Getenv("CODE"))
			if err != nil {
				return 70
			}
			return code
		},
	}
}
