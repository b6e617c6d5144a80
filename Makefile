# Installs plumbd without a package; `cargo deb` makes one.
#
#   make && sudo make install          into /usr/local
#   make install DESTDIR=/tmp/x PREFIX=/usr

PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR    ?=
# As cargo has it; sudo does not pass it on: sudo make install CARGO_TARGET_DIR=...
BUILT      := $(or $(CARGO_TARGET_DIR),target)/release/plumbd

bin      := $(DESTDIR)$(PREFIX)/bin
lib      := $(DESTDIR)$(PREFIX)/lib
share    := $(DESTDIR)$(PREFIX)/share
settings := $(DESTDIR)$(SYSCONFDIR)/plumbd

.PHONY: build install uninstall

build:
	cargo build --release --locked

# A configuration that is there already stays as it is.
install:
	@test -x $(BUILT) || { echo "cannot install $(BUILT): it is not built;" \
		"run make first, and give both the same CARGO_TARGET_DIR, if any" >&2; exit 1; }
	install -D -m 755 $(BUILT) $(bin)/plumbd
	install -d $(lib)/systemd/system $(lib)/systemd/user $(settings)
	sed 's|/usr/bin/|$(PREFIX)/bin/|' systemd/plumbd.service | \
		install -m 644 /dev/stdin $(lib)/systemd/system/plumbd.service
	sed 's|/usr/bin/|$(PREFIX)/bin/|' systemd/user/plumbd.service | \
		install -m 644 /dev/stdin $(lib)/systemd/user/plumbd.service
	install -m 644 systemd/plumbd.socket $(lib)/systemd/system/plumbd.socket
	install -D -m 644 systemd/plumbd.sysusers $(lib)/sysusers.d/plumbd.conf
	install -D -m 644 systemd/plumbd.tmpfiles $(lib)/tmpfiles.d/plumbd.conf
	cd share && find * -type f -exec install -D -m 644 {} $(share)/{} \;
	test -e $(settings)/plumbd.toml || sed '1s|/usr/share/|$(PREFIX)/share/|' etc/plumbd.toml | \
		install -m 644 /dev/stdin $(settings)/plumbd.toml

# Configuration and messages stay.
uninstall:
	rm -f $(bin)/plumbd $(lib)/systemd/system/plumbd.service $(lib)/systemd/system/plumbd.socket \
		$(lib)/systemd/user/plumbd.service $(lib)/sysusers.d/plumbd.conf $(lib)/tmpfiles.d/plumbd.conf
	cd share && find * -type f -exec rm -f $(share)/{} \;
	test ! -d $(share)/plumbd || rmdir $(share)/plumbd
