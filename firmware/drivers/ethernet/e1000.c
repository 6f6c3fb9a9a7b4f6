/* Network cards of Intel's 8254x family (QEMU's `e1000`), with rings of descriptors on both sides.
 *
 * From Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual" (317453) and Zephyr's
 * Ethernet driver API. Zephyr's own driver has one receive descriptor, so that of a burst of frames all but the first
 * are lost; this one takes 32 frames before the processor has looked at any. Frames are copied in both directions:
 * a device that is this small has time for that, and none for the care that sharing buffers with a card takes.
 *
 * Receiving happens in a work item of a queue of its own, so that the interrupt only masks and wakes. */
#define DT_DRV_COMPAT intel_e1000

#include <zephyr/drivers/pcie/pcie.h>
#include <zephyr/irq.h>
#include <zephyr/kernel.h>
#include <zephyr/logging/log.h>
#include <zephyr/net/ethernet.h>

LOG_MODULE_REGISTER(propeller_e1000, CONFIG_ETHERNET_LOG_LEVEL);

enum { DESCRIPTORS = 32, FRAME_BYTES = 2048, ADDRESS_BYTES = 6 };

/* Registers, by their offsets (section 13.2). */
enum {
	REG_CTRL = 0x0000,
	REG_ICR = 0x00c0,
	REG_IMS = 0x00d0,
	REG_IMC = 0x00d8,
	REG_RCTL = 0x0100,
	REG_TCTL = 0x0400,
	REG_TIPG = 0x0410,
	REG_RDBAL = 0x2800,
	REG_RDBAH = 0x2804,
	REG_RDLEN = 0x2808,
	REG_RDH = 0x2810,
	REG_RDT = 0x2818,
	REG_TDBAL = 0x3800,
	REG_TDBAH = 0x3804,
	REG_TDLEN = 0x3808,
	REG_TDH = 0x3810,
	REG_TDT = 0x3818,
	REG_MTA = 0x5200,
	REG_RAL = 0x5400,
	REG_RAH = 0x5404,
};

enum {
	CTRL_SET_LINK_UP = BIT(6),
	CTRL_RESET = BIT(26),
	RCTL_ENABLE = BIT(1),
	RCTL_MULTICAST_ALL = BIT(4),
	RCTL_BROADCAST = BIT(15), /* with buffer size 00: 2048 bytes */
	RCTL_STRIP_CRC = BIT(26),
	TCTL_ENABLE = BIT(1),
	TCTL_PAD_SHORT = BIT(3),
	TCTL_COLLISIONS = 15 << 4 | 64 << 12, /* threshold and distance for full duplex (section 14.5) */
	TIPG_COPPER = 10 | 8 << 10 | 6 << 20,
	IRQ_RX_THRESHOLD = BIT(4),
	IRQ_RX_OVERRUN = BIT(6),
	IRQ_RX_TIMER = BIT(7),
	IRQ_RX = IRQ_RX_THRESHOLD | IRQ_RX_OVERRUN | IRQ_RX_TIMER,
	DESCRIPTOR_DONE = BIT(0),
	DESCRIPTOR_END = BIT(1),   /* of a received frame */
	TX_END_OF_PACKET = BIT(0),
	TX_INSERT_CRC = BIT(1),
	TX_REPORT = BIT(3),
};

/* Legacy descriptors (sections 3.2.3 and 3.3.3). */
struct rx_descriptor {
	uint64_t address;
	uint16_t length, checksum;
	uint8_t status, errors;
	uint16_t special;
};

struct tx_descriptor {
	uint64_t address;
	uint16_t length;
	uint8_t checksum_offset, command, status, checksum_start;
	uint16_t special;
};

struct card {
	mm_reg_t registers;
	struct pcie_dev *pcie;
	struct net_if *iface;
	struct k_work receive;
	struct k_sem sending;
	uint32_t rx_next, tx_next;
	uint8_t address[ADDRESS_BYTES];
	volatile struct rx_descriptor rx[DESCRIPTORS] __aligned(16);
	volatile struct tx_descriptor tx[DESCRIPTORS] __aligned(16);
	uint8_t rx_frames[DESCRIPTORS][FRAME_BYTES] __aligned(16);
	uint8_t tx_frames[DESCRIPTORS][FRAME_BYTES] __aligned(16);
};

static K_THREAD_STACK_DEFINE(receive_stack, 2048);
static struct k_work_q receive_queue;

static uint32_t get(const struct card *card, uint32_t reg) { return sys_read32(card->registers + reg); }
static void put(const struct card *card, uint32_t reg, uint32_t value) { sys_write32(value, card->registers + reg); }

/* --- receiving --------------------------------------------------------------------------------------------- */

static void deliver(struct card *card, const uint8_t *frame, size_t length)
{
	struct net_pkt *packet = net_pkt_rx_alloc_with_buffer(card->iface, length, AF_UNSPEC, 0, K_MSEC(20));

	if (packet == NULL) {
		LOG_WRN("no buffer for a frame of %zu bytes", length);
		return;
	}
	if (net_pkt_write(packet, frame, length) != 0 || net_recv_data(card->iface, packet) < 0) {
		net_pkt_unref(packet);
	}
}

static void receive(struct k_work *work)
{
	struct card *card = CONTAINER_OF(work, struct card, receive);

	while (card->rx[card->rx_next].status & DESCRIPTOR_DONE) {
		volatile struct rx_descriptor *descriptor = &card->rx[card->rx_next];

		/* A frame longer than one buffer spans several; none of ours is, so such a one is dropped. */
		if ((descriptor->status & DESCRIPTOR_END) && descriptor->errors == 0 && descriptor->length > 0) {
			deliver(card, card->rx_frames[card->rx_next], descriptor->length);
		}
		descriptor->status = 0;
		/* The tail is the last descriptor that the card may fill. */
		put(card, REG_RDT, card->rx_next);
		card->rx_next = (card->rx_next + 1) % DESCRIPTORS;
	}
	put(card, REG_IMS, IRQ_RX);
	/* What came between the last look and the unmasking raised no interrupt. */
	if (card->rx[card->rx_next].status & DESCRIPTOR_DONE) {
		k_work_submit_to_queue(&receive_queue, &card->receive);
	}
}

static void interrupt(const struct device *device)
{
	struct card *card = device->data;

	if (get(card, REG_ICR) & IRQ_RX) { /* reading clears it */
		put(card, REG_IMC, IRQ_RX);
		k_work_submit_to_queue(&receive_queue, &card->receive);
	}
}

/* --- sending ----------------------------------------------------------------------------------------------- */

static int transmit(struct card *card, struct net_pkt *packet, size_t length)
{
	volatile struct tx_descriptor *descriptor = &card->tx[card->tx_next];
	uint8_t *frame = card->tx_frames[card->tx_next];

	/* Every descriptor reports when it is done; the ring is full while the next one has not. */
	for (int tries = 0; !(descriptor->status & DESCRIPTOR_DONE); tries++) {
		if (tries == 100) {
			return -EBUSY;
		}
		k_sleep(K_MSEC(1));
	}
	if (net_pkt_read(packet, frame, length) != 0) {
		return -EIO;
	}
	descriptor->length = length;
	descriptor->status = 0;
	descriptor->command = TX_END_OF_PACKET | TX_INSERT_CRC | TX_REPORT;
	card->tx_next = (card->tx_next + 1) % DESCRIPTORS;
	put(card, REG_TDT, card->tx_next);
	return 0;
}

static int send(const struct device *device, struct net_pkt *packet)
{
	struct card *card = device->data;
	size_t length = net_pkt_get_len(packet);

	if (length > FRAME_BYTES) {
		return -EMSGSIZE;
	}
	k_sem_take(&card->sending, K_FOREVER);
	int result = transmit(card, packet, length);
	k_sem_give(&card->sending);
	return result;
}

/* --- setting up -------------------------------------------------------------------------------------------- */

static uint32_t physical(const volatile void *address)
{
	return (uint32_t)z_mem_phys_addr((void *)address);
}

static void set_up_receiving(struct card *card)
{
	for (int i = 0; i < DESCRIPTORS; i++) {
		card->rx[i].address = physical(card->rx_frames[i]);
	}
	put(card, REG_RDBAL, physical(card->rx));
	put(card, REG_RDBAH, 0);
	put(card, REG_RDLEN, sizeof(card->rx));
	put(card, REG_RDH, 0);
	put(card, REG_RDT, DESCRIPTORS - 1);
	for (int i = 0; i < 128; i++) {
		put(card, REG_MTA + 4 * i, 0);
	}
}

static void set_up_sending(struct card *card)
{
	for (int i = 0; i < DESCRIPTORS; i++) {
		card->tx[i].address = physical(card->tx_frames[i]);
		card->tx[i].status = DESCRIPTOR_DONE;
	}
	put(card, REG_TDBAL, physical(card->tx));
	put(card, REG_TDBAH, 0);
	put(card, REG_TDLEN, sizeof(card->tx));
	put(card, REG_TDH, 0);
	put(card, REG_TDT, 0);
	put(card, REG_TIPG, TIPG_COPPER);
	put(card, REG_TCTL, TCTL_ENABLE | TCTL_PAD_SHORT | TCTL_COLLISIONS);
}

/* The card reads its own address from its EEPROM at reset. */
static void read_address(struct card *card)
{
	uint32_t low = get(card, REG_RAL), high = get(card, REG_RAH);

	memcpy(card->address, &low, 4);
	memcpy(card->address + 4, &high, 2);
}

static int probe(const struct device *device)
{
	struct card *card = device->data;
	struct pcie_bar bar;

	if (card->pcie->bdf == PCIE_BDF_NONE || !pcie_probe_mbar(card->pcie->bdf, 0, &bar)) {
		return -ENODEV;
	}
	pcie_set_cmd(card->pcie->bdf, PCIE_CONF_CMDSTAT_MEM | PCIE_CONF_CMDSTAT_MASTER, true);
	device_map(&card->registers, bar.phys_addr, bar.size, K_MEM_CACHE_NONE);
	put(card, REG_IMC, UINT32_MAX);
	k_sem_init(&card->sending, 1, 1);
	k_work_init(&card->receive, receive);
	read_address(card);
	set_up_receiving(card);
	set_up_sending(card);
	return 0;
}

static void start(struct net_if *iface)
{
	const struct device *device = net_if_get_device(iface);
	struct card *card = device->data;

	card->iface = iface;
	ethernet_init(iface);
	net_if_set_link_addr(iface, card->address, sizeof(card->address), NET_LINK_ETHERNET);
	k_work_queue_init(&receive_queue);
	k_work_queue_start(&receive_queue, receive_stack, K_THREAD_STACK_SIZEOF(receive_stack), K_PRIO_COOP(7), NULL);
	IRQ_CONNECT(DT_INST_IRQN(0), DT_INST_IRQ(0, priority), interrupt, DEVICE_DT_INST_GET(0), DT_INST_IRQ(0, sense));
	irq_enable(DT_INST_IRQN(0));
	put(card, REG_CTRL, get(card, REG_CTRL) | CTRL_SET_LINK_UP);
	put(card, REG_RCTL, RCTL_ENABLE | RCTL_MULTICAST_ALL | RCTL_BROADCAST | RCTL_STRIP_CRC);
	(void)get(card, REG_ICR);
	put(card, REG_IMS, IRQ_RX);
}

static enum ethernet_hw_caps capabilities(const struct device *device)
{
	return ETHERNET_LINK_10BASE_T | ETHERNET_LINK_100BASE_T | ETHERNET_LINK_1000BASE_T;
}

static const struct ethernet_api api = {
	.iface_api.init = start,
	.get_capabilities = capabilities,
	.send = send,
};

BUILD_ASSERT(DT_NUM_INST_STATUS_OKAY(DT_DRV_COMPAT) == 1, "this driver drives one card");

DEVICE_PCIE_INST_DECLARE(0);
static struct card card_0 = {DEVICE_PCIE_INST_INIT(0, pcie)};

ETH_NET_DEVICE_DT_INST_DEFINE(0, probe, NULL, &card_0, NULL, CONFIG_ETH_INIT_PRIORITY, &api, NET_ETH_MTU);
