package process

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Build is what is known about how this binary was made.
type Build struct {
	Version, Revision, GoVersion string
}

// ReadBuild takes it from what the Go tool wrote into the binary.
func ReadBuild() Build {
	build := Build{Version: "(devel)", Revision: "unknown", GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return build
	}
	if info.Main.Version != "" {
		build.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision" && len(setting.Value) >= 12:
			build.Revision = setting.Value[:12]
		case setting.Key == "vcs.modified" && setting.Value == "true":
			build.Revision += "+changes"
		}
	}
	return build
}

// BuildVersion is the build in one line.
func BuildVersion() string {
	build := ReadBuild()
	return fmt.Sprintf("%s (revision %s, %s)", build.Version, build.Revision, build.GoVersion)
}
