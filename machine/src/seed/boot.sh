# Run at every boot, before sshd. Beside it are the keys that the provider knows.
keys=/etc/ssh/golem_authorized_keys
mkdir -p "$keys" && chmod 0755 "$keys"
cp "$(dirname "$0")/authorized-keys" "$keys/.new" && chmod 0644 "$keys/.new" && mv "$keys/.new" "$keys/@USER@"

# The provider's keys stand beside the guest's own; nobody logs in by password. sshd takes the first value it finds.
mkdir -p /etc/ssh/sshd_config.d
cat >/etc/ssh/sshd_config.d/10-golem.conf.new <<'END'
# Written at every boot. The second file is the provider's: "golem vm keys" changes it. The first one is yours.
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/golem_authorized_keys/%u
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
LoginGraceTime 30
# Everybody arrives from the same address, so strangers share this with the renter.
MaxStartups 150:30:200
ClientAliveInterval 60
ClientAliveCountMax 10
END
mv /etc/ssh/sshd_config.d/10-golem.conf.new /etc/ssh/sshd_config.d/10-golem.conf
if ! grep -qi '^[[:space:]]*Include[[:space:]].*/etc/ssh/sshd_config.d/' /etc/ssh/sshd_config 2>/dev/null; then
    printf '%s\n' 'Include /etc/ssh/sshd_config.d/*.conf' | cat - /etc/ssh/sshd_config >/etc/ssh/sshd_config.golem-new &&
        mv /etc/ssh/sshd_config.golem-new /etc/ssh/sshd_config
fi

# A disk that was copied has another machine's id. What runs already has read that one.
if [ "$(cat /etc/machine-id 2>/dev/null)" != '@MACHINE_ID@' ]; then
    umount /etc/machine-id 2>/dev/null
    echo '@MACHINE_ID@' >/etc/machine-id
    if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
        echo '@MACHINE_ID@' >/var/lib/dbus/machine-id
    fi
    systemctl try-restart systemd-journald.service 2>/dev/null
fi
exit 0
